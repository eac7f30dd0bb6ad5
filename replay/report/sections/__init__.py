"""A result as sections: titles, columns, rows and notes, which every form of report writes."""
