"""Every bound of the client in one place, with the reason above it."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

#: Piece in which bytes travel to and from the node through a connection: two such calls hide each other's wait.
PIECE_BYTES = 1 * MIB
#: `write` and `read` frames of one object under way at a time.
PIECES_INFLIGHT = 4
#: Piece in which a file object is read.
FILE_PIECE_BYTES = 1 * MIB

#: First reservation of a writer that does not know its size; then it doubles, by at most RESERVE_STEP_BYTES_MAX.
RESERVE_FIRST_BYTES = 1 * MIB
RESERVE_STEP_BYTES_MAX = 64 * MIB

CONNECT_TIMEOUT_S = 5.0
#: The first answer of a node whose address is tried; the kernel takes connections for one that is paused.
FIRST_ANSWER_S = 10.0
#: A call that a living node does not answer for this long fails; the connection stays. A node ends its own calls much
#: sooner: this is the end of a wait for one that it forgot.
CALL_TIMEOUT_S = 600.0
#: A node that is waited for in silence for this long is asked, and given up at the second limit: by `ping` on a
#: connection of frames, by ``GET /healthz`` where HTTP is waited for.
PING_AFTER_S = 10.0
SILENCE_S_MAX = 40.0
#: Received at a time where small answers come together.
RECEIVE_BYTES = 64 * KIB
#: Payloads up to here are joined with their header into one buffer.
JOINED_WRITE_BYTES = 64 * KIB

#: One request that waits for an object; the node allows a minute.
WAIT_STEP_MS = 30_000
#: HTTP connections kept while idle, for each client; the node closes them after 65 s.
IDLE_HTTP_CONNECTIONS = 8
#: Answers of the control surface larger than this are refused: a list page is about 0.5 MiB.
JSON_BYTES_MAX = 64 * MIB
#: Objects in one page of a listing.
LIST_PAGE_OBJECTS = 1000
#: An opened object's files that are opened at once; the rest when they are read.
EAGER_FILES_MAX = 16
