"""Values as text, cells, tables and charts."""
