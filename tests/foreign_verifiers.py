"""Programs of other people that check our evidence, made ready where the machine has them or can get them.

Each verifier is one function: evidence in, what it said out. A program that cannot be had raises `Missing`, whose
message says what is missing. Nothing is written outside the folder given, but for Debian packages as root.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidewaiter.core.tlog.notes import VerifierKey, public_pem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tidewaiter.core.tlog.proofs import LogProof

SOURCES: Final = Path(__file__).resolve().parent / "foreign"
DEBIAN_PACKAGES: Final = ("golang-go", "golang-golang-x-mod-dev")
DEBIAN_GOPATH: Final = Path("/usr/share/gocode")
SIGSTORE: Final = "@sigstore/verify@3.1.1"
INSTALL_SECONDS: Final = 150
BUILD_SECONDS: Final = 120
ANSWER_SECONDS: Final = 30


class Missing(Exception):  # noqa: N818 - it becomes the reason of a skip
    """A foreign verifier cannot be had on this machine."""


class Evidence(NamedTuple):
    """What a stranger is given: the log's key, an entry, and the proof with its checkpoint."""

    key: VerifierKey
    entry: bytes
    proof: LogProof


class Answer(NamedTuple):
    """Whether a verifier accepted, and its words."""

    accepted: bool
    words: str


def answers_of(command: Sequence[str | Path], questions: Sequence[dict[str, Any]]) -> list[Answer]:
    """Ask a program. It answers each question with a line; anything else fails the test."""
    lines = said(command, *questions).splitlines()
    assert len(lines) == len(questions), lines
    return [answer_of(line) for line in lines]


def answer_of(line: str) -> Answer:
    """Return what a line of a verifier says."""
    assert line == "accepted" or line.startswith("refused: "), line
    return Answer(accepted=line == "accepted", words=line)


def said(command: Sequence[str | Path], *questions: dict[str, Any]) -> str:
    """Return what a program that works says to these questions."""
    asked = "\n".join(json.dumps(question) for question in questions).encode()
    done = subprocess.run(command, input=asked, capture_output=True, check=False, timeout=ANSWER_SECONDS)
    assert done.returncode == 0, (command, done)
    return done.stdout.decode()


def base64_text(data: bytes) -> str:
    """Return bytes as JSON carries them."""
    return base64.b64encode(data).decode()


class Go:
    """`golang.org/x/mod/sumdb`: notes, both kinds of proofs, and tiles."""

    def __init__(self, folder: Path) -> None:
        """Build the verifier into the folder. Raises Missing."""
        with _one_at_a_time(folder):
            self._program = folder / "verify-go"
            if not self._program.exists():
                _build_go(_go_tool(), self._program, folder)

    def inclusion(self, *evidence: Evidence) -> list[Answer]:
        """Check signatures and inclusion."""
        return answers_of([self._program], [_question(one) for one in evidence])

    def consistency(self, key: VerifierKey, *asked: tuple[bytes, bytes, Sequence[bytes]]) -> list[Answer]:
        """Check the signatures of an old and a new checkpoint, and by a proof that one tree begins with the other."""
        questions = [
            {
                "Kind": "consistency",
                "Vkey": str(key),
                "OldCheckpoint": old.decode(),
                "Checkpoint": new.decode(),
                "Hashes": [base64_text(value) for value in hashes],
            }
            for old, new, hashes in asked
        ]
        return answers_of([self._program], questions)

    def tiles(self, key: VerifierKey, checkpoint: bytes, folder: Path) -> Answer:
        """Check a checkpoint's signature and all tiles of its tree; `folder` contains ``tile/``."""
        question = {"Kind": "tiles", "Vkey": str(key), "Checkpoint": checkpoint.decode(), "Folder": str(folder)}
        return answers_of([self._program], [question])[0]

    def signed(self, name: str, text: str) -> tuple[str, str, bytes]:
        """Return a new private key, its verifier key, and the text as a note signed with it."""
        secret, vkey, note = json.loads(said([self._program], {"Kind": "sign", "Name": name, "Text": text}))
        return secret, vkey, note.encode()


class Sigstore:
    """`@sigstore/verify`: signature and inclusion."""

    def __init__(self, folder: Path) -> None:
        """Install the package into the folder. Raises Missing."""
        for tool in ("node", "npm"):
            if shutil.which(tool) is None:
                raise Missing(f"@sigstore/verify: {tool} is missing")
        self._folder = folder
        with _one_at_a_time(folder):
            if not (folder / "node_modules" / "@sigstore" / "verify").exists():
                _install_sigstore(folder)

    def inclusion(self, *evidence: Evidence) -> list[Answer]:
        """Check signatures and inclusion."""
        return answers_of(["node", SOURCES / "verify.js", self._folder], [_question(one) for one in evidence])


class Shell:
    """`openssl pkeyutl`, `sha256sum` and a POSIX shell: signature and inclusion."""

    def __init__(self, folder: Path) -> None:
        """Look for the tools. Raises Missing."""
        for tool in ("sh", "openssl", "sha256sum", "base64", "od"):
            if shutil.which(tool) is None:
                raise Missing(f"openssl and sha256sum: {tool} is missing")
        self._folder = folder

    def inclusion(self, *evidence: Evidence) -> list[Answer]:
        """Check signatures and inclusion."""
        return [self._inclusion(one) for one in evidence]

    def _inclusion(self, evidence: Evidence) -> Answer:
        files = {"key.pem": public_pem(evidence.key), "proof": evidence.proof.encode(), "entry": evidence.entry}
        for name, data in files.items():
            (self._folder / name).write_bytes(data)
        key = (evidence.key.name, evidence.key.key_id.hex())
        command: list[str | Path] = [
            "sh",
            SOURCES / "verify.sh",
            *key,
            *(self._folder / name for name in files),
            self._folder,
        ]
        done = subprocess.run(command, capture_output=True, check=False, timeout=ANSWER_SECONDS)
        answer = answer_of(done.stdout.decode().removesuffix("\n"))
        assert (done.returncode, done.stderr) == (0 if answer.accepted else 1, b""), done
        return answer

    def signature_holds(self, key: VerifierKey, message: bytes, signature: bytes) -> bool:
        """Ask openssl alone whether a bare signature holds for a message."""
        files = {"key.pem": public_pem(key), "message": message, "signature": signature}
        for name, data in files.items():
            (self._folder / name).write_bytes(data)
        command = "openssl pkeyutl -verify -rawin -pubin -inkey key.pem -in message -sigfile signature"
        done = subprocess.run(
            command.split(), cwd=self._folder, capture_output=True, check=False, timeout=ANSWER_SECONDS
        )
        words = done.stdout.decode()
        assert words.startswith(("Signature Verified", "Signature Verification Failure")), done
        return done.returncode == 0


def _question(evidence: Evidence) -> dict[str, Any]:
    return {
        "Kind": "inclusion",
        "Vkey": str(evidence.key),
        "Name": evidence.key.name,
        "KeyId": base64_text(evidence.key.key_id),
        "Pem": public_pem(evidence.key).decode(),
        "Checkpoint": evidence.proof.checkpoint.decode(),
        "Leaf": base64_text(evidence.entry),
        "Index": evidence.proof.index,
        "Hashes": [base64_text(value) for value in evidence.proof.hashes],
    }


# -- getting them -----------------------------------------------------------------------------------------------------


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare the folder; the suite may run in several."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _attempt(command: Sequence[str], seconds: float, what: str, **options: Any) -> None:
    """Run a command that may well fail. Raises Missing with its last words."""
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=seconds, stdin=subprocess.DEVNULL, **options)
    except subprocess.TimeoutExpired:
        raise Missing(f"{what}: `{' '.join(command[:2])}` took longer than {seconds} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()[-3:]
        raise Missing(f"{what}: `{' '.join(command[:2])}` failed: {' '.join(last)}") from None


def _go_tool() -> str:
    """Return the go command, installed where that is possible. Raises Missing."""
    if (found := _installed_go()) is not None:
        return found
    what = f"x/mod for Go (Debian: {' '.join(DEBIAN_PACKAGES)})"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"{what} is missing, and only root on Debian can install it")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60", *DEBIAN_PACKAGES]
    try:
        _attempt(install, INSTALL_SECONDS, what, env=environment)
    except Missing:  # perhaps there are no package lists yet
        _attempt(["apt-get", "update"], INSTALL_SECONDS, what, env=environment)
        _attempt(install, INSTALL_SECONDS, what, env=environment)
    if (found := _installed_go()) is None:
        raise Missing(f"{what} is missing, though apt-get installed it")
    return found


def _installed_go() -> str | None:
    tools = [shutil.which("go"), *sorted(map(str, Path("/usr/lib").glob("go-*/bin/go")))]
    library = DEBIAN_GOPATH / "src" / "golang.org" / "x" / "mod" / "sumdb"
    return next((tool for tool in tools if tool), None) if library.exists() else None


def _build_go(go: str, program: Path, folder: Path) -> None:
    """Build with what is on the machine; the network is not asked."""
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GO111MODULE": "off",
        "GOCACHE": str(folder / "go-cache"),
        "GOFLAGS": "",
        "GOPATH": f"{folder / 'go'}:{DEBIAN_GOPATH}",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    command = [go, "build", "-o", str(program), str(SOURCES / "verify.go")]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr.decode()


def _install_sigstore(folder: Path) -> None:
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--fetch-retries=1"]
    command = ["npm", "install", *options, f"--prefix={folder}", f"--cache={folder / 'npm-cache'}", SIGSTORE]
    _attempt(command, INSTALL_SECONDS, SIGSTORE, cwd=folder)
