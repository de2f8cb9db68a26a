"""Pure Python: no server, and the compiled core only where a test says so."""
