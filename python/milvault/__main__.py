"""`python -m milvault` is the command `milvault`."""

from .cli import main

if __name__ == "__main__":
    main()
