"""Signatures by OpenSSH itself: made, checked, and refused where anything is not as it was signed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kit.package.proof.signature import check_signature, sign, signature_path
from submission.bundle import verify
from tests.kit.package.made import make_bundle, make_checkpoint

SSH = shutil.which("ssh-keygen")
needs_ssh = pytest.mark.skipif(SSH is None, reason="ssh-keygen is not installed")
ME = "me@example.org"


def make_key(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    command = [str(SSH), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
    subprocess.run(command, check=True)
    return folder / name


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        make_key(folder, name)
    (folder / "signers").write_text(f"{ME} {(folder / 'mine.pub').read_text()}")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    return make_bundle(folder / "b", make_checkpoint(folder / "model"))


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """Each test's own, to be signed and changed."""
    return shutil.copytree(built, tmp_path / "b")


@needs_ssh
def test_a_signed_bundle_is_known_by_its_signer_and_stays_as_built(bundle: Path, keys: Path) -> None:
    place = sign(bundle, keys / "mine")
    assert place == signature_path(bundle) == bundle.parent / "b.sig"
    assert verify(bundle) == []
    assert ME in check_signature(bundle, keys / "signers", ME)
    moved = place.rename(bundle.parent / "elsewhere")
    with pytest.raises(ValueError, match="is no file; sign a bundle with"):
        check_signature(bundle, keys / "signers", ME)
    assert ME in check_signature(bundle, keys / "signers", ME, moved)


@needs_ssh
def test_another_content_key_signer_or_purpose_is_refused(bundle: Path, keys: Path) -> None:
    sign(bundle, keys / "other")
    with pytest.raises(ValueError, match=f"no signature of .* by {ME}"):
        check_signature(bundle, keys / "signers", ME)
    sign(bundle, keys / "mine")
    with pytest.raises(ValueError, match="by you@example"):
        check_signature(bundle, keys / "signers", "you@example.org")
    manifest = bundle / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content.replace(b'"version": 1', b'"version":  1'))
    with pytest.raises(ValueError, match="obtain bundle and signature again"):
        check_signature(bundle, keys / "signers", ME)
    manifest.write_bytes(content)
    check_signature(bundle, keys / "signers", ME)
    shutil.copy(manifest, keys / "copy")
    command = [str(SSH), "-q", "-Y", "sign", "-f", str(keys / "mine"), "-n", "file", str(keys / "copy")]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ValueError, match="is no signature"):
        check_signature(bundle, keys / "signers", ME, keys / "copy.sig")


@needs_ssh
@pytest.mark.parametrize("signer", ["", "-x", "a b", "*", "me@example.org\n"])
def test_a_signer_is_a_plain_name(bundle: Path, keys: Path, signer: str) -> None:
    sign(bundle, keys / "mine")
    with pytest.raises(ValueError, match="is not a name as in"):
        check_signature(bundle, keys / "signers", signer)


@needs_ssh
def test_what_is_no_key_and_what_is_no_bundle_is_refused(bundle: Path, keys: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no key file; make one: ssh-keygen"):
        sign(bundle, tmp_path / "none")
    with pytest.raises(ValueError, match="could not sign"):
        sign(bundle, bundle / "contest.toml")
    with pytest.raises(ValueError, match="manifest"):
        sign(tmp_path, keys / "mine")
    assert not signature_path(bundle).exists()


def test_without_openssh_it_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="signatures need ssh-keygen of OpenSSH"):
        sign(bundle, bundle / "key")
