"""Answers the lines of standard input, one JSON document a line, with nothing but ``edgebert[cpu]``.

    pip install 'edgebert[cpu]'
    echo 'a fine film' | python examples/edge.py edgebert-out/best

The folder may hold one artifact, or several of which the best for this machine is taken. Each line is answered as it
comes.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import edgebert


def main() -> None:
    """Answer until there are no more lines."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: edge.py ARTIFACT < lines")
    with edgebert.load(sys.argv[1]) as model:
        for line in sys.stdin:
            text = line.rstrip("\r\n")
            (answer,) = model.predict([text])
            print(json.dumps({"text": text, **dataclasses.asdict(answer)}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    try:
        main()
    except edgebert.EdgebertError as error:
        raise SystemExit(f"error: {error}") from None
