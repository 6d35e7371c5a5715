"""``python -m unstir_pipelines`` is the command ``unstir``."""

from unstir_pipelines.cli import main

if __name__ == "__main__":
    main()
