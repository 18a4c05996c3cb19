"""Programs that a model could write and nobody wants to run. Each is told in ``OUTSIDE`` (argv 1) a folder that is none of its business."""

PRELUDE = """
import os, sys, time, signal, socket, resource, subprocess, threading
OUTSIDE, PORT, PARENT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
"""

PROGRAMS = {
    "fork bomb": """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "fork bomb that spreads": """
def spread():
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            time.sleep(0.001)
spread()
""",
    "thread bomb": "while True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "memory bomb": "hoard = [bytearray(2**24) for _ in range(10**6)]",
    "memory bomb in children": """
for _ in range(4):
    if os.fork() == 0:
        hoard = [bytearray(2**24) for _ in range(10**6)]
os.wait()
sys.exit(1)
""",
    "memory files": "files = [os.memfd_create(str(i)) for i in range(10**6)]",
    "endless output": "while True: print('x' * 4096)",
    "endless complaint": "while True: print('x' * 4096, file=sys.stderr)",
    "endless loop": "while True: pass",
    "endless sleep": "time.sleep(3600)",
    "signals ignored": """
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
while True: time.sleep(1)
""",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "closes its output and hides": "os.close(1); os.close(2); time.sleep(3600)",
    "network": "socket.create_connection(('127.0.0.1', PORT), timeout=5).sendall(b'secret')",
    "abstract socket": "s = socket.socket(socket.AF_UNIX); s.connect('\\0outside-' + str(PORT))",
    "secrets of the environment": "print(os.environ['THE_SECRET'])",
    "secrets of the parent": "print(open(f'/proc/{PARENT}/environ').read()[0])",
    "secrets in files": "print(open(OUTSIDE + '/secret').read())",
    "secrets in the home folder": "print(os.listdir(OUTSIDE))",
    "writes outside": "open(OUTSIDE + '/new', 'w').write('x')",
    "removes outside": "os.unlink(OUTSIDE + '/secret')",
    "link to the outside": "os.symlink(OUTSIDE + '/secret', 'link'); open('link', 'a').write('x')",
    "links and locked folders left behind": """
os.symlink(OUTSIDE, 'folder')
os.makedirs('a/b/c')
os.symlink(OUTSIDE, 'a/b/c/d')
open('a/b/file', 'w').close()
os.chmod('a/b', 0)
os.chmod('a', 0)
os.chmod('.', 0)
sys.exit(1)
""",
    "a very deep folder": """
for _ in range(3000):
    os.mkdir('d' * 100)
    os.chdir('d' * 100)
sys.exit(1)
""",
    "kills its parents": """
for pid in (os.getppid(), PARENT, 1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
os.kill(-1, signal.SIGKILL)
sys.exit(1)
""",
    "kills its group": "os.killpg(0, signal.SIGKILL)",
    "traces its parent": """
import ctypes
sys.exit(1 if ctypes.CDLL(None).ptrace(16, PARENT, 0, 0) else 0)
""",
    "more rights": """
for attempt in (lambda: os.setuid(0), lambda: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)), lambda: os.nice(-20)):
    try:
        attempt()
        sys.exit(0)
    except (OSError, ValueError):
        pass
sys.exit(1)
""",
    "a daemon that outlives": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(3600)
    os._exit(0)
sys.exit(1)
""",
    "a daemon that keeps the pipes": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(0)
sys.exit(1)
""",
    "waits for input": "sys.stdin.read(); sys.exit(len(os.read(0, 1)) or 1)",
    "asks the terminal": "open('/dev/tty').readline()",
    "full disk": """
with open('big', 'wb') as file:
    while True: file.write(b'x' * 2**20)
""",
    "many files": """
for i in range(20):
    with open(f'big{i}', 'wb') as file: file.write(b'x' * 2**22)
sys.exit(1)
""",
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "deep recursion": "f = lambda: f(); sys.setrecursionlimit(10**9); f()",
    "memory that no limit counts": """
import ctypes
libc = ctypes.CDLL(None)
sys.exit(1 if all(libc.shmget(0, 2**28, 0o1600) < 0 for _ in range(4)) else 0)
""",
    "new namespace": "sys.exit(subprocess.call('unshare --user --map-root-user --mount mount -t tmpfs x /usr'.split()))",
}
