"""The control API, version 1: every request and answer, by area, and here what leads to which.

JSON over HTTP on the UNIX socket in the run directory. `docs/api.json` is generated from this
file. A request that fails answers with `Failure` and a status of 400 (asked wrongly: exit code
2), 404 (no such thing), 409 (conflicts with what is), 503 (not now) or 504 (waited in vain).

| method and path           | request           | answer          |
|---------------------------|-------------------|-----------------|
| GET  /v1/status           |                   | Status          |
| GET  /v1/report           |                   | Report          |
| POST /v1/connect          | ConnectRequest    | TargetsAnswer   |
| POST /v1/forget           | ForgetRequest     | TargetsAnswer   |
| POST /v1/attach           | AttachRequest     | Attachment      |
| POST /v1/detach           | DetachRequest     | DetachAnswer    |
| POST /v1/expose           | ExposeRequest     | ExposeAnswer    |
| POST /v1/hide             | HideRequest       | ExposeAnswer    |
| GET  /v1/attachments      |                   | AttachmentList  |
| GET  /v1/ipam             |                   | IpamStatus      |
| POST /v1/ipam/allocate    | AllocateRequest   | AddressAnswer   |
| POST /v1/ipam/claim       | ClaimRequest      | AddressAnswer   |
| POST /v1/ipam/release     | ReleaseRequest    | ReleaseAnswer   |
| POST /v1/ipam/lookup      | LookupRequest     | LookupAnswer    |
| POST /v1/ipam/prime       | PrimeRequest      | IpamStatus      |
| GET  /v1/ipam/addresses   |                   | AddressList     |
| GET  /v1/ipam/history     |                   | HistoryAnswer   |
| GET  /v1/ipam/check       |                   | CheckAnswer     |
| POST /v1/ipam/rmpeer      | RmpeerRequest     | RmpeerAnswer    |
| POST /v1/cni/add          | CniAddRequest     | CniAddAnswer    |
| POST /v1/cni/del          | CniDelRequest     | CniDelAnswer    |
| POST /v1/cni/check        | CniCheckRequest   | CniCheckAnswer  |
| POST /v1/cni/gc           | CniGcRequest      | CniGcAnswer     |
| POST /v1/cni/status       | CniStatusRequest  | CniStatusAnswer |
| POST /v1/capture          | CaptureRequest    | Pcapng          |
| POST /v1/bench            | BenchRequest      | BenchAnswer     |
| GET  /v1/policy           |                   | PolicyStatus    |
| POST /v1/policy/apply     | PolicyObjects     | PolicyAnswer    |
| POST /v1/policy/delete    | PolicyObjects     | PolicyAnswer    |
| POST /v1/policy/explain   | ExplainRequest    | ExplainAnswer   |
| POST /v1/policy/matrix    | MatrixRequest     | MatrixAnswer    |
| POST /v1/policy/lint      | LintRequest       | LintAnswer      |
| POST /v1/policy/trace     | TraceRequest      | PolicyDrops     |
| POST /v1/stop             | StopRequest       | Done            |
| POST /v1/reset            | ResetRequest      | Done            |
"""

from weavepy.client.schema.base import *
from weavepy.client.schema.cni import *
from weavepy.client.schema.containers import *
from weavepy.client.schema.ipam import *
from weavepy.client.schema.life import *
from weavepy.client.schema.looking import *
from weavepy.client.schema.mesh import *
from weavepy.client.schema.policy import *
from weavepy.client.schema.status import *
