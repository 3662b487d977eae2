ROW_FIELDS: tuple[tuple[str, str] | tuple[str, str, tuple[int]], ...]
SHA256: int
XXH3: int

class Chunker:
    def __init__(self, minimum: int, average: int, maximum: int, key: object = None) -> None: ...
    def cut(
        self, data: object, *, base: int = 0, last: bool = True, digests: int = 0, threads: int = 1
    ) -> tuple[int, bytearray]: ...
    def cut_pieces(self, data: object, pieces: object, *, digests: int = 0) -> bytearray: ...
