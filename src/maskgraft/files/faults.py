"""The few ways in which bytes are wrong, as errors ready to raise."""

from typing import Any

from maskgraft.errors import CheckpointError, Finding


def damaged(message: str, **evidence: Any) -> CheckpointError:
    """`file.damaged`: the bytes contradict their own format, or claim what is not there.

    Raise it from any depth of a parser: whoever knows the file puts its name in front (`named`).
    """
    return CheckpointError(
        Finding("file.damaged", "error", message, evidence=evidence, fix="download or copy the file again")
    )


def unsupported(message: str, *, fix: str = "", names: tuple[str, ...] = (), **evidence: Any) -> CheckpointError:
    """`file.unsupported`: the file is sound, and holds something that is not read here."""
    return CheckpointError(Finding("file.unsupported", "error", message, names=names, evidence=evidence, fix=fix))


def outside(message: str, **evidence: Any) -> CheckpointError:
    """`file.outside`: the file points at another one that is not beside it; nothing was followed."""
    return CheckpointError(
        Finding(
            "file.outside",
            "error",
            message,
            evidence=evidence,
            fix="put the data file into the same folder under a plain name and have the checkpoint written again",
        )
    )


def named(error: CheckpointError, place: str) -> CheckpointError:
    """The same findings, each message beginning with the place (a file name, a member of an archive).

    Findings that already begin with it are left alone.
    """
    return CheckpointError(
        Finding(
            finding.code,
            finding.severity,
            finding.message if finding.message.startswith(place) else f"{place}: {finding.message}",
            names=finding.names,
            evidence=finding.evidence,
            effect=finding.effect,
            fix=finding.fix,
        )
        for finding in error.findings
    )
