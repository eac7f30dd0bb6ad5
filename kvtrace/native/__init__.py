"""The compiled core: C files lie beside the Python that calls them; what they share is here."""
