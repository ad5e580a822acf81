"""llama.cpp's side of `servers.py`: its server with eight places, for answers or embeddings."""

from __future__ import annotations

import argparse
import threading

PLACES, CONTEXT = 8, 1024


def main() -> None:
    """Serve until killed."""
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf")
    parser.add_argument("--port", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--embeddings", action="store_true", help="embed, rather than answer")
    parser.add_argument("--version", action="store_true", help="print it, and what it is built for")
    options = parser.parse_args()
    if options.version:
        print(f"xllamacpp {xllamacpp.__version__}: {xllamacpp.get_system_info().strip()}")
        return
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.verbosity = options.gguf, options.port, 0
    params.n_ctx, params.n_parallel = PLACES * CONTEXT, PLACES
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
