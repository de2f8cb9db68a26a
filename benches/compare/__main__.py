"""`python -m benches.compare`."""

from benches.compare.run import main

main()
