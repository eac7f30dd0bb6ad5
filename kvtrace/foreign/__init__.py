"""Code that exporters and importers of other tools' formats share, beyond options and files."""
