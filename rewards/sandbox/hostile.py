"""Programs that try to get out. Each returns the list of what it managed, which must be empty.

The probe runs them before anything else is let into the sandbox, and so do the tests. What they try leaves
nothing behind where it works.
"""

from __future__ import annotations

from rewards.sandbox.program import End

__all__ = ["ENDS", "HOSTILE"]

_TRY = """
import ctypes, fcntl, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def raw(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def managed(acts):
    done = []
    for name, act in acts.items():
        try:
            act()
        except (OSError, MemoryError, RuntimeError):
            continue
        done.append(name)
    return done
"""

HOSTILE = {
    "new processes": """
def fork():
    if os.fork() == 0:
        os._exit(0)
def attempt():
    return managed({
        "fork": fork,
        "vfork": lambda: raw(58) or os._exit(0),
        "clone3": lambda: raw(435, ctypes.create_string_buffer(88), 88),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "exec": lambda: os.execv("/bin/true", ["true"]),
    })
""",
    "threads without end": """
def attempt():
    threading.stack_size(1 << 15)
    stop, count = threading.Event(), 0
    try:
        while count < 512:
            threading.Thread(target=stop.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    stop.set()
    return [f"{count} threads"] * (count >= 512)
""",
    "memory without end": """
def attempt():
    held = []
    try:
        while len(held) < 64:
            held.append(bytearray(8 << 20))
    except MemoryError:
        return []
    return ["512 MiB"]
""",
    "output without end": """
def attempt():
    while True:
        os.write(1, b"x" * 65536)
""",
    "deaf to signals": """
import signal
def attempt():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
""",
    "secrets": """
def attempt():
    parent = os.getppid()
    paths = ["/etc/passwd", "/etc/hostname", "/proc/self/environ", f"/proc/{parent}/environ", f"/proc/{parent}/mem",
             "/proc/1/cmdline", "/proc/self/maps", "/proc/self/cwd", "/proc/self/root/etc/passwd"]
    found = managed({path: lambda path=path: os.open(path, os.O_RDONLY) for path in paths})
    folders = ["/", "/root", "/home", "/tmp", "/proc", "/dev/shm", "/var", "/run", "."]
    found += managed({path: lambda path=path: os.listdir(path) for path in folders})
    ours = {"PYTHONHASHSEED", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LC_CTYPE", "TMPDIR", "PWD"}
    return found + [f"{name} in the environment" for name in os.environ.keys() - ours]
""",
    "handles of others": """
def attempt():
    return managed({f"descriptor {n}": lambda n=n: os.fstat(n) for n in [3, *range(5, 4096)]})
""",
    "writing": """
def attempt():
    folders = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/root", "/home", "/", "."]
    found = managed({path: lambda path=path: os.open(path, os.O_TMPFILE | os.O_RDWR) for path in folders})
    files = ["/etc/hosts", "/dev/kmsg", "/dev/tty", "/dev/ptmx", "/proc/self/oom_score_adj", os.__file__]
    found += managed({path: lambda path=path: os.open(path, os.O_WRONLY) for path in files})
    return found + managed({
        "memory file": lambda: os.memfd_create("x"),
        "mode": lambda: os.chmod("/tmp", 0o1777),
        "time": lambda: os.utime("/tmp"),
        "owner": lambda: os.chown("/tmp", -1, -1),
        "shared memory": lambda: raw(29, 0, 4096, 0o1600),
        "message queue": lambda: raw(240, b"x", os.O_CREAT | os.O_RDWR, 0o600, None),
    })
""",
    "network": """
def attempt():
    kinds = [(f, t) for f in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_VSOCK)
             for t in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)]
    found = managed({f"{f.name} {t.name}": lambda f=f, t=t: socket.socket(f, t) for f, t in kinds})
    return found + managed({"datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)})
""",
    "other processes": """
def attempt():
    parent = os.getppid()
    return managed({
        "signal the parent": lambda: os.kill(parent, 0),
        "signal everyone": lambda: os.kill(-1, 0),
        "signal a group": lambda: os.killpg(1, 0),
        "signal a thread": lambda: raw(200, parent, 0),
        "handle of the parent": lambda: os.pidfd_open(parent),
        "trace": lambda: raw(101, 16, parent, 0, 0),
        "read its memory": lambda: raw(310, parent, None, 0, None, 0, 0),
        "signals from a descriptor": lambda: fcntl.fcntl(1, fcntl.F_SETOWN, parent),
        "its limits": lambda: raw(302, parent, 7, None, None),
        "its priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, 0),
        "its processors": lambda: os.sched_setaffinity(parent, {0}),
    })
""",
    "privileges": """
def attempt():
    user = managed({"root": lambda: os.setuid(0)} if os.getuid() else {})
    return user + ["is root"] * (os.geteuid() == 0) + managed({
        "namespace": lambda: raw(272, 0x10000000),
        "mount": lambda: raw(165, b"none", b"/tmp", b"tmpfs", 0, None),
        "bpf": lambda: raw(321, 0, None, 0),
        "io_uring": lambda: raw(425, 1, ctypes.create_string_buffer(120)),
        "page faults": lambda: raw(323, 1),
        "performance counters": lambda: raw(298, ctypes.create_string_buffer(128), 0, -1, -1, 0),
        "keys": lambda: raw(250, 0, -3, 1),
        "file handles": lambda: raw(304, -100, ctypes.create_string_buffer(128), 0),
        "prctl": lambda: raw(157, 4, 1, 0, 0, 0),
        "personality": lambda: raw(135, 0x40000),
    })
""",
}
"""Name -> source of a program whose function `attempt` is called."""
HOSTILE = {name: _TRY + source for name, source in HOSTILE.items()}

ENDS = {"output without end": End.FLOOD, "deaf to signals": End.DEADLINE}
"""How those end that do not return."""
