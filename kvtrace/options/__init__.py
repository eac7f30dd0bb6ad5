"""Fields of models as options: one definition for the command line, files, targets and docs."""
