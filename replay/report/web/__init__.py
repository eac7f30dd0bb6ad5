"""Self-contained HTML pages: text, sortable tables, and charts whose code is in the file."""
