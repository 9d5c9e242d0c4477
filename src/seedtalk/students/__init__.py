"""Students: small chat models that learn to recommend, and how they are read, taught and asked."""
