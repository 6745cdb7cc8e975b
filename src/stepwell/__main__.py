"""`python -m stepwell`: the command line."""

from stepwell.cli import main

if __name__ == "__main__":
    main()
