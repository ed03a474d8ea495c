"""What the reports have in common: how a ratio is written, what the machine is, whether it was quiet."""

import argparse
import json
import os

from . import document

NOISY_SHARE = 0.05  # of the measuring cores, by others, before the figures are marked as noisy


def parser(doc, marker, rounds):
    """Command line options that every comparison has."""
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "release")
    common = argparse.ArgumentParser(description=doc.split("\n")[0])
    common.add_argument("--build", default=build, help="directory of midge-raw, midge-floor, midge-server")
    common.add_argument("--rounds", type=int, default=rounds)
    common.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)),
                        help="core of the server; default: the last one allowed")
    common.add_argument("--ports", help="A-B; default: what the kernel picks")
    common.add_argument("--json", help="where every run and the record of the machine go")
    common.add_argument("--write", metavar="FILE",
                        help=f"put the result between the `{marker}` markers of a Markdown file")
    return common


def write_json(arguments, content):
    if arguments.json:
        os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")


def publish(arguments, marker, text):
    """Print the result, and put it into the document that was named."""
    print(text, end="")
    if arguments.write:
        document.write(arguments.write, marker, text)


def ratio(result):
    if result is None:
        return ""
    if result["low"] is None:
        return f"{result['median']:.2f}"
    return f"{result['median']:.2f} ({result['low']:.2f}–{result['high']:.2f})"


def machine(record):
    virtual = " (virtual machine)" if record["hypervisor"] else ""
    return f"{record['cpu_model']}, {record['cpu_online']} CPUs{virtual}, Linux {record['kernel']}"


def noise(runs):
    """How much of the measuring time others had: on the measuring cores, and on the other ones."""
    shares = [run["foreign"] for run in runs]
    elapsed = sum(share["elapsed_s"] for share in shares) or 1.0
    return {name: sum(share[name + "_s"] for share in shares) / elapsed
            for name in ("here", "elsewhere", "steal")}


def noise_text(shares):
    text = (f"Others used {shares['here']:.1%} of the measuring core and {shares['elsewhere']:.1%} "
            f"of one core elsewhere; the hypervisor kept {shares['steal']:.1%}.")
    if max(shares.values()) > NOISY_SHARE:
        text += " **The machine was not quiet: these figures only show that the tool runs.**"
    return text
