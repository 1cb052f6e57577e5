"""The error tree. `wire.py` translates it to gRPC statuses and back; entry points map it to exit codes.

OfframpError
├── CallerError                the caller must change something; a fallback never hides it
│   ├── InvalidInput           bad shape, dtype, size, value                INVALID_ARGUMENT
│   │   ├── CorruptPayload     bytes that do not decode to what they claim  INVALID_ARGUMENT
│   │   └── NotCarried         an activation that no codec can carry        INVALID_ARGUMENT
│   ├── UnknownModel           no such model or version                     NOT_FOUND
│   ├── ModelMismatch          two tiers hold different models              FAILED_PRECONDITION
│   ├── NotHeld                a part of the network that is not held here FAILED_PRECONDITION
│   ├── TooLarge               over a size limit                            RESOURCE_EXHAUSTED
│   ├── NotImplementedHere     a call this server does not offer            UNIMPLEMENTED
│   ├── Unauthenticated        no token, or not a good one                  UNAUTHENTICATED
│   └── PermissionDenied       a certificate that may not call this tier    PERMISSION_DENIED
├── Unavailable                try again, or elsewhere                      UNAVAILABLE
│   ├── QueueFull, Draining, ModelNotReady, UpstreamUnavailable
├── DeadlineExceeded           time ran out                                 DEADLINE_EXCEEDED
├── InternalError              the far side failed and would not say why    INTERNAL
├── BundleError                a bundle that must not be served             exit code 1
└── SettingsError              a setting or argument that cannot work       exit code 2
"""

from __future__ import annotations

MOST_RETRY_SECONDS = 0.2
"""No caller is told to wait for longer before it asks again."""


class OfframpError(Exception):
    """Base of everything Offramp raises on purpose. `reason` is the ErrorInfo reason on the wire."""

    reason = "INTERNAL"


class CallerError(OfframpError):
    """The request itself is wrong; no other tier could answer it."""


class InvalidInput(CallerError):
    """A tensor, name or parameter is not what the model takes."""

    reason = "INVALID_INPUT"


class CorruptPayload(InvalidInput):
    """The bytes do not decode to the shape, dtype or checksum they claim."""

    reason = "CORRUPT_PAYLOAD"


class NotCarried(InvalidInput):
    """No codec can carry this activation, so that nobody but the tier that has it can go on with it."""

    reason = "NOT_CARRIED"


class UnknownModel(CallerError):
    """No model of this name, or not in this version."""

    reason = "MODEL_NOT_FOUND"


class ModelMismatch(CallerError):
    """Two tiers hold different models under one name."""

    reason = "MODEL_MISMATCH"


class NotHeld(CallerError):
    """The plan gives this tier a part of the network that it does not hold."""

    reason = "NOT_HELD"


class TooLarge(CallerError):
    """Over a size limit."""

    reason = "TOO_LARGE"


class NotImplementedHere(CallerError):
    """A call that this server does not offer."""

    reason = "UNIMPLEMENTED"


class Unauthenticated(CallerError):
    """The caller brought no token where one is wanted, or not a good one."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(CallerError):
    """The caller's certificate is good, but not on the list of who may call this tier."""

    reason = "PERMISSION_DENIED"


class Unavailable(OfframpError):
    """Cannot serve now; the same request may succeed later or elsewhere."""

    reason = "UNAVAILABLE"


class QueueFull(Unavailable):
    """The bounded queue is full, or holds more than can be done in time.

    retry_seconds: when to ask again; None: it would be in vain.
    """

    reason = "QUEUE_FULL"

    def __init__(self, message: str = "", retry_seconds: float | None = 0.05):
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Draining(Unavailable):
    """This tier is shutting down and takes no new work."""

    reason = "DRAINING"


class ModelNotReady(Unavailable):
    """The model is still loading or warming up."""

    reason = "MODEL_NOT_READY"


class UpstreamUnavailable(Unavailable):
    """The next tier cannot be reached."""

    reason = "UPSTREAM_UNAVAILABLE"


class DeadlineExceeded(OfframpError):
    """The request's time ran out."""

    reason = "DEADLINE_EXCEEDED"


class InternalError(OfframpError):
    """The far side failed and, rightly, gave no detail."""


class BundleError(OfframpError):
    """A bundle that is missing, corrupt, tampered with or of another version."""

    reason = "BUNDLE"


class SettingsError(OfframpError):
    """A setting or command-line argument that cannot work."""

    reason = "SETTINGS"
