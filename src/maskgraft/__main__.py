"""`python -m maskgraft` and the `maskgraft` command."""

from maskgraft.cli import main as main

if __name__ == "__main__":
    main()
