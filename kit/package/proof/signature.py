"""Signatures of a bundle, by OpenSSH (`ssh-keygen -Y`): offline, with the key that one has already.

What is signed is `manifest.json`, which holds the SHA-256 of every other file. The signature lies beside the
bundle as `BUNDLE.sig`, since a bundle holds nothing that its manifest does not list. Who may sign is said by
a file of OpenSSH's form (`ssh-keygen(1)`, ALLOWED SIGNERS): `someone@example.org ssh-ed25519 AAAA...`.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from submission.bundle import MANIFEST, Bundle

NAMESPACE = "aimo-bundle"
"""Keeps a signature made for something else from being taken for one of a bundle."""
MAX_SIGNATURE_BYTES = 64 << 10


def signature_path(bundle: Path) -> Path:
    """Where the signature of a bundle lies unless another place is named."""
    return bundle.absolute().with_name(f"{bundle.absolute().name}.sig")


def check_signing(key: Path) -> None:
    """Refuse before a long build what could not be signed after it.

    Raises:
        ValueError: ssh-keygen is not installed, or there is no such key.
    """
    _tool()
    if not key.is_file():
        raise ValueError(f"--sign {key} is no key file; make one: ssh-keygen -t ed25519 -f {key}")


def sign(bundle: Path, key: Path) -> Path:
    """Sign a bundle with a private key, or a public one whose private half ssh-agent holds.

    Gives the place of the signature, beside the bundle.

    Raises:
        ValueError: the bundle has no valid manifest, there is no such key, or OpenSSH refuses it.
    """
    check_signing(key)
    Bundle.open(bundle)
    out = signature_path(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        # ssh-keygen writes beside what it signs, and nothing is written into a bundle.
        copy = Path(scratch) / MANIFEST
        shutil.copyfile(bundle / MANIFEST, copy)
        command = [_tool(), "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(copy)]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode:
            raise ValueError(f"{key} could not sign {bundle}: {_last(done.stderr)}")
        shutil.copyfile(copy.with_name(f"{MANIFEST}.sig"), out)
    return out


def check_signature(bundle: Path, signers: Path, signer: str, signature: Path | None = None) -> str:
    """Whether `signer`, whose keys `signers` lists, has signed this very manifest; gives OpenSSH's words.

    The files themselves are for `submission.bundle.verify`.

    Raises:
        ValueError: there is no signature, it is of another content or key, or `signers` does not list it.
    """
    tool, place = _tool(), signature or signature_path(bundle)
    for path, what in ((signers, "--allowed-signers"), (place, "the signature")):
        if not path.is_file():
            raise ValueError(
                f"{what} {path} is no file; sign a bundle with: kit.package sign BUNDLE --key KEY"
            )
    if place.stat().st_size > MAX_SIGNATURE_BYTES:
        raise ValueError(f"the signature {place} has {place.stat().st_size} bytes; obtain it again")
    if not re.fullmatch(r"[A-Za-z0-9][\w.@+-]{0,199}", signer, re.ASCII):
        raise ValueError(f"--signer {signer!r} is not a name as in {signers}, like someone@example.org")
    command = [tool, "-Y", "verify", "-f", str(signers), "-I", signer, "-n", NAMESPACE, "-s", str(place)]
    with (bundle / MANIFEST).open("rb") as manifest:
        done = subprocess.run(
            command, check=False, stdin=manifest, capture_output=True, text=True, errors="replace"
        )
    if done.returncode:
        reason = _last(f"{done.stdout}\n{done.stderr}")
        raise ValueError(
            f"{place} is no signature of {bundle / MANIFEST} by {signer} ({reason}); obtain bundle and "
            "signature again, or do not use it"
        )
    return done.stdout.strip()


def _tool() -> str:
    path = shutil.which("ssh-keygen")
    if path is None:
        raise ValueError("signatures need ssh-keygen of OpenSSH 8.2 or later, which is not installed")
    return path


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason was given"
