"""How values become text, cells, tables and charts."""
