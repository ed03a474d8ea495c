"""The record of the machine that goes beside every figure, and what else it did meanwhile."""

import os
import platform
import resource
import subprocess

NOISY_SHARE = 0.05  # by others, before the figures are marked as noisy

def read(path, default=None):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return default


def cpu_model():
    for line in (read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def mitigations():
    base = "/sys/devices/system/cpu/vulnerabilities"
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return {}
    return {name: read(os.path.join(base, name), "") for name in names}


def output_of(command):
    """What a command prints, its lines joined by commas, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ", ".join((done.stdout + done.stderr).split("\n")).strip(", ") or None


def describe(source_directory):
    """Everything about the machine that can move a latency, as one JSON object."""
    cpu = "/sys/devices/system/cpu"
    return {
        "cpu_model": cpu_model(),
        "cpu_online": os.cpu_count(),
        "cpu_allowed": sorted(os.sched_getaffinity(0)),
        "smt": read(cpu + "/smt/active"),
        "governor": read(cpu + "/cpu0/cpufreq/scaling_governor"),
        "idle_driver": read(cpu + "/cpuidle/current_driver"),
        "hypervisor": any(
            line.startswith("flags") and " hypervisor" in line
            for line in (read("/proc/cpuinfo") or "").splitlines()
        ),
        "kernel": platform.release(),
        "mitigations": mitigations(),
        "clocksource": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "memory": (read("/proc/meminfo") or "").split("\n")[0],
        "load_before": read("/proc/loadavg"),
        "python": platform.python_version(),
        "commit": output_of(["git", "-C", source_directory, "describe", "--always", "--dirty"]),
    }


def machine_text(record):
    virtual = " (virtual machine)" if record["hypervisor"] else ""
    return f"{record['cpu_model']}, {record['cpu_online']} CPUs{virtual}, Linux {record['kernel']}"


def leave_cpu(cpu):
    """Keep this process, and children that do not choose, off the measuring core if there is another."""
    others = os.sched_getaffinity(0) - {cpu}
    if others:
        os.sched_setaffinity(0, others)


def resident(pid):
    """Bytes that a process has resident, or None."""
    for line in (read(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def tick_seconds():
    return 1 / os.sysconf("SC_CLK_TCK")


def cpu_times():
    """Busy and stolen seconds of each CPU since boot: {cpu: (busy, steal)}."""
    times = {}
    for line in (read("/proc/stat") or "").splitlines():
        words = line.split()
        if words and words[0].startswith("cpu") and words[0] != "cpu":
            values = [int(word) * tick_seconds() for word in words[1:9]]
            user, nice, system, _idle, _iowait, irq, softirq, steal = values
            times[int(words[0][3:])] = (user + nice + system + irq + softirq, steal)
    return times


def foreign(before, after, cpu, own_seconds):
    """CPU seconds between two cpu_times(): by others on one CPU, by all on other ones, and stolen."""
    busy = {i: after[i][0] - before[i][0] for i in after if i in before}
    here = busy.pop(cpu) - own_seconds
    steal = sum(after[i][1] - before[i][1] for i in after if i in before)
    return {"here_s": max(0.0, here), "elsewhere_s": sum(busy.values()), "steal_s": steal}


def noise_text(share):
    """How much of the time others had, of a foreign() to which `elapsed_s` was added."""
    here, elsewhere, steal = (share[name + "_s"] / share["elapsed_s"]
                              for name in ("here", "elsewhere", "steal"))
    text = (f"Others used {here:.1%} of the measuring core and {elsewhere:.1%} "
            f"of one core elsewhere; the hypervisor kept {steal:.1%}.")
    if max(here, elsewhere, steal) > NOISY_SHARE:
        text += " **The machine was not quiet: these figures only show that the tool runs.**"
    return text


def children_seconds():
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
