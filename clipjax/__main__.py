"""`python -m clipjax run dann ...` is `clipjax run dann ...`."""

from clipjax.commands.cli import main

if __name__ == "__main__":
    main()
