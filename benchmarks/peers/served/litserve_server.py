"""Runs LitServe: a worker and an API server a core, batches of what came within a millisecond."""
# mypy: ignore-errors
# (its packages are those of LitServe's environment)

import os

import answers
import litserve

CORES = os.cpu_count() or 1


class Api(litserve.LitAPI):
    """One model."""

    def setup(self, device):
        """Load the model that the environment names."""
        self.model = answers.load(os.environ["BENCH_MODEL"], os.environ["BENCH_FOLDER"])

    def decode_request(self, request):
        """Return the input."""
        return request["input"]

    def batch(self, inputs):
        """Leave the inputs a list: the model takes it so."""
        return inputs

    def predict(self, inputs):
        """Answer a batch."""
        return self.model(inputs)

    def unbatch(self, outputs):
        """Return one output for each input."""
        return outputs

    def encode_response(self, output):
        """Return the reply."""
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=CORES,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=CORES,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
