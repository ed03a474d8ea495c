"""Put a generated result into a document, between two marker lines, and leave the rest alone.

    document.py DOCUMENT NAME FILE      the text of FILE between the markers of NAME
"""

import sys


def markers(name):
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replaced(text, name, result):
    """`text` with what stands between the markers of `name` replaced; each marker must stand once."""
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the document does not have one {begin} and one {end} after it")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    return f"{head}{begin}\n\n{result.strip()}\n\n{end}{tail}"


def write(path, name, result):
    with open(path, encoding="utf-8") as file:
        text = replaced(file.read(), name, result)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    with open(sys.argv[3], encoding="utf-8") as result_file:
        write(sys.argv[1], sys.argv[2], result_file.read())
