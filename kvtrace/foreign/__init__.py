"""What exporters to, and importers from, other tools' formats share beyond options and files."""
