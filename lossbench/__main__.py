"""`python -m lossbench` and the `lossbench` command, which need the bench's packages."""

import sys


def main() -> None:
    """Run the command line, or say what it needs where the base install stands alone."""
    try:
        from lossbench import cli
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs {error.name}: pip install 'lossbench[bench]'")
    cli.main()


if __name__ == "__main__":
    main()
