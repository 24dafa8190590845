"""What the runners of this folder share: curl, the cloud of `stack`, one running keyway, and the loop over the checks.

A runner registers its checks with [`check`] and calls [`main`]. Every check prints `ok NAME (seconds)`, `FAIL NAME: what was
expected, what came` or `skipped NAME: why`; the last line counts them, and the exit code is 1 if any failed.
"""
import argparse
import concurrent.futures
import fnmatch
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STACK = HERE / "stack"
STACK_HOME = Path(os.environ.get("OPENSTACK_HOME") or Path.home() / ".cache/openstack-testbed").expanduser().absolute()
MIB = 1 << 20
LEGACY_URL = "http://127.0.0.1:5001/v2.0"
# What shows that a service of --services runs: a name that `stack status` prints.
PROBES = {"keystone": "keystone", "glance": "glance", "nova": "nova-api", "neutron": "neutron-api",
          "cinder": "cinder-api", "swift": "swift-proxy", "heat": "heat-api", "federation": "apache",
          "legacy": "keystone-pike"}
# This run's own folder; `main` makes it.
WORK = Path(tempfile.gettempdir()) / ("keyway-openstack-%d" % os.getpid())
PROGRAM = None                          # the keyway that is tested; `main` sets it


class Failed(Exception):
    """A check found something else than it should: the message says what was expected and what came."""


class Skipped(Exception):
    """A check that could not run: the message says why."""


def require(condition, message):
    if not condition:
        raise Failed(message)


def equal(got, expected, what):
    if got != expected:
        raise Failed("%s: expected %s, came %s" % (what, short(expected), short(got)))


def short(value, limit=400):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[:limit] + "... (%d characters)" % len(text)


def wait_for(what, seconds, probe, pause=0.25):
    """Calls `probe` until it returns something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed("%s: not within %d seconds" % (what, seconds))
        time.sleep(pause)


# -------------------------------------------------------------------------------------------- HTTP

class Answer:
    def __init__(self, status, headers, body, url):
        self.status, self.headers, self.body, self.url = status, headers, body, url

    def header(self, name):
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise Failed("%s: expected JSON, came %s" % (self.url, short(self.text)))


CURL = ["curl", "-q", "-sS", "--noproxy", "*", "--path-as-is", "--globoff"]


def curl(url, *options, expect=200, timeout=120, stdin=None):
    """Plain curl, as a person would type it; `expect` is a status, several, or None for any."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        head, body = Path(folder, "head"), Path(folder, "body")
        command = CURL + ["-m", str(timeout), "-D", head, "-o", body, *options, url]
        done = subprocess.run(command, stdin=stdin or subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed("curl %s: expected an answer, came exit code %d, %s"
                         % (url, done.returncode, done.stderr.strip()))
        # Interim answers (100) come first; the last block is the answer itself.
        blocks = re.split(r"\r?\n\r?\n", head.read_text("latin-1").strip())
        lines = [block for block in blocks if block.startswith("HTTP/")][-1].splitlines()
        headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if ":" in line]
        answer = Answer(int(lines[0].split()[1]), headers, body.read_bytes() if body.exists() else b"", url)
    allowed = (expect,) if isinstance(expect, int) else expect
    if allowed and answer.status not in allowed:
        raise Failed("%s: expected %s, came %d %s" % (url, " or ".join(map(str, allowed)), answer.status,
                                                       short(answer.text)))
    return answer


def post(url, body, *options, **more):
    return curl(url, "-H", "Content-Type: application/json", "-d", json.dumps(body), *options, **more)


def curl_sha256(url, *options, timeout=900):
    """Downloads with curl and returns the checksum and the length, without keeping the body."""
    command = CURL + ["-f", "-m", str(timeout), *options, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        digest, length = hashlib.sha256(), 0
        while chunk := process.stdout.read(MIB):
            digest.update(chunk)
            length += len(chunk)
        error = process.stderr.read().decode().strip()
    if process.returncode:
        raise Failed("download of %s: expected exit code 0 of curl, came %d after %d bytes, %s"
                     % (url, process.returncode, length, error))
    return digest.hexdigest(), length


def plain(value):
    """What two answers of one service have in common: everything but links and the request's own id."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()
                if not (k in ("links", "next", "previous", "first", "request_id", "self", "file", "schema") or k.endswith("_links"))}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --------------------------------------------------------------------------------------- the cloud

class Cloud:
    """The services themselves, asked directly, and the script that runs them."""

    def __init__(self):
        self.running, self.started, self.tokens, self.catalogs, self.undo = set(), False, {}, {}, []

    def stack(self, *args, check=True, quiet=True, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
        done = subprocess.run([STACK, *args], stdin=subprocess.DEVNULL, text=True, env={**clean, **environment},
                              stdout=subprocess.PIPE if quiet else None, stderr=subprocess.PIPE if quiet else None)
        if check and done.returncode:
            raise Failed("stack %s: expected exit code 0, came %d%s"
                         % (" ".join(args), done.returncode, ", " + done.stderr.strip()[-400:] if quiet else ""))
        return done.stdout or ""

    def look(self):
        """Which processes run, by the name that `stack status` gives them."""
        lines = [line.split() for line in self.stack("status", check=False).splitlines()]
        self.running = {line[0] for line in lines if len(line) > 2 and line[2] == "ok"}
        return self.running

    def has(self, service):
        return PROBES[service] in self.running

    def bring_up(self, services):
        before = self.look()
        missing = [s for s in services if not self.has(s) and s != "legacy"]
        if not missing and ("legacy" not in services or self.has("legacy")):
            print("the cloud already runs and stays up")
        else:
            if not before:
                self.started = True
            groups = [s for s in services if s != "legacy"] + (["placement"] if "nova" in services else [])
            print("bringing the cloud up: %s" % ", ".join(services), flush=True)
            settings = {"LEGACY": "1" if "legacy" in services else "0"}
            # A running cloud keeps what it has: a service that it lacks is added to those.
            running = [] if self.started else self.setting("STACK_SERVICES").split(",")
            settings["STACK_SERVICES"] = ",".join(dict.fromkeys(running + groups))
            self.stack("up", quiet=False, **settings)
            self.look()
        seeded = STACK_HOME / "seed.json"
        if missing or not seeded.exists() or "image_id" not in seeded.read_text():
            self.stack("seed", quiet=False, SEED_SERVERS=os.environ.get("SEED_SERVERS", "4"))

    def take_down(self):
        if self.started:
            self.stack("down", check=False)

    @functools.cached_property
    def seed(self):
        return json.loads((STACK_HOME / "seed.json").read_text())

    @functools.lru_cache
    def env(self, who):
        """The OS_* variables of one identity, from `stack env`."""
        return dict(re.findall(r"^export (OS_\w+)='(.*)'$", self.stack("env", who), re.M))

    def setting(self, name):
        return json.loads((STACK_HOME / "settings.json").read_text())[name]

    def forget(self):
        self.tokens.clear()

    def token(self, who="demo"):
        if who not in self.tokens:
            if who == "legacy":
                body = post(LEGACY_URL + "/tokens", {"auth": {"tenantName": "demo", "passwordCredentials": {
                    "username": "demo", "password": "secret"}}}).json
                self.tokens[who] = body["access"]["token"]["id"]
            else:
                self.tokens[who] = self.stack("token", who).strip()
        return self.tokens[who]

    def login(self, name, user, scope):
        """A token that `stack` has no name for; `name` is how `token` and `direct` know it from then on."""
        password = {"password": {"user": {"password": "secret", **user}}, "methods": ["password"]}
        answer = post(KEYSTONE + "/auth/tokens", {"auth": {"identity": password, "scope": scope}}, expect=201)
        self.tokens[name] = answer.header("X-Subject-Token")
        return answer.json["token"]

    def catalog(self, who):
        if who not in self.catalogs:
            self.catalogs[who] = self.direct_url(KEYSTONE + "/auth/tokens", who, "-H",
                                                 "X-Subject-Token: " + self.token(who)).json["token"]["catalog"]
        return self.catalogs[who]

    def endpoint(self, service, who="demo", region="RegionOne"):
        for entry in self.catalog(who):
            for endpoint in entry["endpoints"] if entry["type"] == service else []:
                if (endpoint["interface"], endpoint["region_id"]) == ("public", region):
                    return endpoint["url"].rstrip("/")
        raise Failed("the catalog of %s: expected %s in %s, came none" % (who, service, region))

    def direct_url(self, url, who="demo", *options, **more):
        return curl(url, "-H", "X-Auth-Token: " + self.token(who), *options, **more)

    def direct(self, service, path, *options, who="demo", region="RegionOne", **more):
        return self.direct_url(self.endpoint(service, who, region) + path, who, *options, **more)

    @property
    def project(self):
        return self.seed["demo_project_id"]

    def admin(self, method, path, body=None, expect=(200, 201, 204)):
        options = ["-X", method] + (["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body else [])
        answer = self.direct_url(KEYSTONE + path, "admin", *options, expect=expect)
        return answer.json if answer.body else None

    def find(self, collection, name):
        return self.admin("GET", "/%s?name=%s" % (collection, name))[collection][0]["id"]


KEYSTONE = "http://127.0.0.1:5000/v3"
CLOUD = Cloud()


# -------------------------------------------------------------------------------------- the program

class Keyway:
    """One running `keyway serve`, with an environment of its own: nothing of the caller's shell reaches it."""

    numbers = itertools.count(1)
    all = []

    def __init__(self, env=None, args=(), files=None, listen=None, ready=True, host="127.0.0.1", program=None):
        self.folder = WORK / ("keyway-%d" % next(self.numbers))
        self.folder.mkdir()
        for name, text in (files or {}).items():
            (self.folder / name).write_text(text)
        self.port, self.admin_port = listen or free_port(), free_port()
        self.url, self.admin = "http://%s:%d" % (host, self.port), "http://127.0.0.1:%d" % self.admin_port
        self.log = self.folder / "log"
        command = [program or PROGRAM, "serve", "--listen", "%s:%d" % (host, self.port), "--admin",
                   "127.0.0.1:%d" % self.admin_port, *args]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=clean_environment(self.folder, env),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        Keyway.all.append(self)
        if ready:
            self.wait_ready()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_ready(self, seconds=30):
        def probe():
            if self.process.poll() is not None:
                raise Failed("keyway: expected it to run, came exit code %d: %s" % (self.process.returncode, self.tail()))
            try:
                return curl(self.admin + "/readyz", expect=None).status == 200
            except Failed:
                return False
        try:
            wait_for("/readyz is 200", seconds, probe, 0.05)
        except Failed as error:
            raise Failed("%s; keyway's log: %s" % (error, self.tail()))
        return self

    def tail(self, lines=5):
        return " | ".join(self.log.read_text("utf-8", "replace").strip().splitlines()[-lines:]) or "(empty)"

    def stop(self, number=signal.SIGTERM, seconds=40):
        """Ends it by its pid and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed("keyway after signal %d: expected an exit within %d s, came none" % (number, seconds))

    def get(self, path, *options, **more):
        return curl(self.url + path, *options, **more)

    def metrics(self):
        """{name: {labels: value}} of /metrics."""
        out = {}
        for name, labels, value in re.findall(r"^(\w+)(\{.*\})? ([-+\w.]+)$", curl(self.admin + "/metrics").text, re.M):
            out.setdefault(name, {})[labels] = float(value)
        return out

    def token_requests(self):
        counts = self.metrics().get("keyway_token_requests_total", {})
        return int(sum(counts.values())), " ".join("%s=%d" % item for item in sorted(counts.items()) if item[1])

    def rss(self):
        status = Path("/proc/%d/status" % self.process.pid).read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def clean_environment(home, extra=None):
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **(extra or {})}


def keyway_command(*args, env=None, files=None, timeout=60):
    """Runs `keyway ARGS` to its end."""
    folder = Path(tempfile.mkdtemp(dir=WORK))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    try:
        return subprocess.run([PROGRAM, *args], cwd=folder, env=clean_environment(folder, env), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed("keyway %s: expected it to end, still ran after %d s" % (" ".join(args), timeout))


# ------------------------------------------------------------------------------------------ the run

CHECKS = []


def check(*services, name=None):
    """Registers a check and the services that it needs; Keystone it always needs."""
    def register(function):
        CHECKS.append((name or function.__name__.replace("_", "-"), services, function))
        return function
    return register


def selected(name, patterns):
    return not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)


def build():
    print("building keyway: cargo build --release --locked", flush=True)
    subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "keyway"], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release/keyway"


def run_one(name, services, function, wanted):
    """Runs one check, prints its line, and returns passed, failed or skipped."""
    away = [s for s in services if not CLOUD.has(s)]
    started = time.monotonic()
    try:
        if away:
            asked = [s for s in away if s in wanted]
            raise Skipped("%s %s" % (" and ".join(away), "does not run here (could not be installed or started)" if asked
                                     else "was not asked for"))
        note = function()
        print("ok %s (%.1f)%s" % (name, time.monotonic() - started, ": " + note if isinstance(note, str) else ""), flush=True)
        return "passed"
    except Skipped as why:
        print("skipped %s: %s" % (name, why), flush=True)
        return "skipped"
    except Failed as error:
        print("FAIL %s: %s" % (name, " ".join(str(error).split())), flush=True)
    except Exception as error:              # a mistake in a check is a failure too, and the others still run
        trace, inner = error.__traceback__, None
        while trace:
            inner, trace = trace, trace.tb_next
        print("FAIL %s: expected no exception, came %s: %s (line %d)" % (name, type(error).__name__, error, inner.tb_lineno), flush=True)
    return "failed"


def options_of(doc, services):
    """The options that every runner has; `services` is the default of --services."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyway", type=Path, help="the program; without it, it is built")
    parser.add_argument("--services", default=services,
                        help="comma-separated: %s (default: %s)" % (",".join(PROBES), services))
    parser.add_argument("--only", action="append", default=[], help="only the checks of these names or patterns")
    parser.add_argument("--keep", action="store_true", help="leave the cloud up and the logs in place")
    parser.add_argument("--list", action="store_true", help="the names of the checks")
    return parser


def main(parser, prepare=lambda options: None, clean_up=lambda: None, beside=()):
    """Runs the chosen checks and returns the exit code. `prepare` runs once the cloud is up, `clean_up` at the end. The checks
    of the names or patterns in `beside` run one after the other beside the rest."""
    global PROGRAM
    options = parser.parse_args()
    if options.list:
        print("\n".join("%s%s" % (name, services and " (%s)" % ", ".join(services) or "") for name, services, _ in CHECKS))
        return 0
    wanted = list(dict.fromkeys(["keystone"] + options.services.replace(",", " ").split()))
    unknown = [s for s in wanted if s not in PROBES]
    if unknown:
        parser.error("unknown service %s; known: %s" % (", ".join(unknown), ", ".join(PROBES)))
    patterns = [p for only in options.only for p in only.split(",")]
    chosen = [c for c in CHECKS if selected(c[0], patterns)]
    if not chosen:
        parser.error("no check is called %s; --list shows them" % ", ".join(patterns))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))     # through the finally below

    started, counts = time.monotonic(), {"passed": 0, "failed": 0, "skipped": 0}
    WORK.mkdir(mode=0o700)
    try:
        if not getattr(options, "direct", False):
            PROGRAM = (options.keyway or build()).resolve()
            if not os.access(PROGRAM, os.X_OK):
                parser.error("%s is not a program" % PROGRAM)
        try:
            CLOUD.bring_up(wanted)
        except Failed as error:
            print("FAIL cloud: %s" % error, flush=True)
            counts["failed"] += 1
            CLOUD.look()
        if "legacy" in wanted and not CLOUD.has("legacy"):
            print("the Keystone with Identity v2.0 does not run: it needs a Python 2.7, see tests/openstack/README.md")
        prepare(options)
        lanes = [], []
        for one in chosen:
            lanes[bool(beside) and selected(one[0], beside)].append(one)

        def run_lane(lane):
            return [run_one(name, ("keystone", *services), function, wanted) for name, services, function in lane]
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            results = other.submit(run_lane, lanes[1])
            for result in run_lane(lanes[0]) + results.result():
                counts[result] += 1
    finally:
        for keyway in Keyway.all:
            try:
                keyway.stop(seconds=15)
            except Failed as error:
                print("FAIL stop: %s" % error)
                counts["failed"] += 1
        clean_up()
        if options.keep:
            print("logs: %s" % WORK)
        else:
            CLOUD.take_down()
            shutil.rmtree(WORK, ignore_errors=True)
    print("%d seconds" % (time.monotonic() - started))
    print("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % counts)
    return 1 if counts["failed"] else 0
