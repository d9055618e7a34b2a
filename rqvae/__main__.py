"""`python -m rqvae train ...`, `python -m rqvae infer ...`."""

import os
import sys

if __name__ == "__main__":
    if os.path.abspath(sys.path[0]) == os.getcwd():     # put there by -m: a torch.py among the user's data would be run
        del sys.path[0]
    from .cli.main import main
    sys.exit(main(program=f"python -m {__package__}"))
