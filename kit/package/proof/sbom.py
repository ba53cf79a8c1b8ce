"""The bill of materials of a bundle: CycloneDX JSON, made by its own library (cyclonedx-python-lib).

It names the code, the models with the hash of each of their files, and every wheel with its hash and licence.
It holds neither the time nor a random serial number: the serial number is a UUID made of the content, so the
same bundle has the same bill, byte for byte.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kit.package.wheels import Wheel
from submission.bundle import Entry

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SBOM = "sbom.cdx.json"
_NAMESPACE = uuid.UUID("5c1b9f0e-6c39-5d0f-9f4b-0e1a5a2f7d11")


def sbom(manifest: Mapping[str, Any], wheels: Sequence[Wheel], entries: Sequence[Entry]) -> bytes:
    """The bill of a bundle with this manifest, these wheels and these files, as UTF-8 JSON.

    Raises:
        ValueError: the library is not installed.
    """
    try:
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.dependency import Dependency
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError:
        raise ValueError("the bill of materials needs cyclonedx-python-lib: install `package`") from None

    root = _code(manifest, entries)
    parts = [_model(name, manifest[key], entries) for name, key in _models(manifest)]
    parts += [_wheel(wheel) for wheel in wheels]
    bom = Bom(components=parts)
    # Set here, not given: what the library adds of itself and the time would differ between builds.
    bom.metadata.component = root
    bom.metadata.tools.tools.clear()
    bom.metadata.tools.components.clear()
    bom.dependencies.add(Dependency(root.bom_ref, (Dependency(part.bom_ref) for part in parts)))
    bom.dependencies.update(Dependency(part.bom_ref) for part in parts)
    data = json.loads(JsonV1Dot6(bom).output_as_string())
    data["metadata"].pop("timestamp", None)
    data.pop("serialNumber", None)
    content = json.dumps(data, sort_keys=True)
    data["serialNumber"] = uuid.uuid5(_NAMESPACE, content).urn
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def _models(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Folders in the bundle and keys of the manifest."""
    return [(key, key) for key in ("model", "prm", "draft") if manifest.get(key)]


def _code(manifest: Mapping[str, Any], entries: Iterable[Entry]) -> "Component":
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    project, git = manifest["project"], manifest.get("git") or {}
    known = {"target": manifest["target"], "git.revision": git.get("revision"), "git.dirty": git.get("dirty")}
    properties = [
        Property(name=f"aimo:{key}", value=str(value)) for key, value in known.items() if value is not None
    ]
    return Component(
        type=ComponentType.APPLICATION,
        name=project["name"],
        version=project["version"],
        bom_ref="code",
        licenses=_licences("Apache-2.0"),
        components=_files("submission", entries, lambda path: path.endswith((".py", ".toml"))),
        properties=properties,
    )


def _model(folder: str, about: Mapping[str, Any], entries: Iterable[Entry]) -> "Component":
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    known = {key: about.get(key) for key in ("architecture", "model_type", "released")}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=about["name"],
        bom_ref=folder,
        licenses=_licences(about.get("license")),
        components=_files(folder, entries, lambda _: True),
        properties=[Property(name=f"aimo:{key}", value=str(value)) for key, value in known.items() if value],
    )


def _files(folder: str, entries: Iterable[Entry], taken: Any) -> "list[Component]":
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return [
        Component(
            type=ComponentType.FILE,
            name=entry.path,
            bom_ref=f"file:{entry.path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry.sha256)],
        )
        for entry in entries
        if entry.path.startswith(f"{folder}/") and taken(entry.path)
    ]


def _wheel(wheel: Wheel) -> "Component":
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        name=wheel.name,
        version=wheel.version,
        bom_ref=f"wheel:{wheel.name}",
        purl=PackageURL("pypi", name=wheel.name, version=wheel.version, qualifiers={"file_name": wheel.file}),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)],
        licenses=_licences(wheel.license),
    )


def _licences(text: str | None) -> Any:
    """An SPDX licence or expression where the text is one, else a licence of that name; none for none."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    if not text or text == "unknown":
        return ()
    return (LicenseFactory().make_from_string(text),)
