"""Trains a search encoder: `python3 train.py --datapath FILE --outputpath FILE.pt`; `--help` lists all flags."""

import sys

from hr_search.commands.parser import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
