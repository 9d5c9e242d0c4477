from click.testing import CliRunner
from tests.unit.studies.collected_toy import make_study

from seedtalk.cli import main


def test_paper_is_written_and_says_where(tmp_path):
    make_study(tmp_path / "studies" / "ablation", conversations=6)
    out = tmp_path / "paper"
    result = CliRunner().invoke(
        main, ["paper", "--studies", str(tmp_path / "studies"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert f"{out / 'index.html'} written: 1 of 1 studies were run." in result.output
    assert (out / "README.md").is_file() and (out / "figures" / "ablation-curves.png").is_file()


def test_no_studies_is_bad_input(tmp_path):
    (tmp_path / "studies").mkdir()
    result = CliRunner().invoke(main, ["paper", "--studies", str(tmp_path / "studies")])
    assert result.exit_code == 2
    assert "holds no study" in result.output
