"""How does a trained network get into other programs: files, a page, a folder of C."""
