"""Runs Ray Serve: a Ray of its own on loopback, one replica, batches of what came within a millisecond."""
# mypy: ignore-errors
# (its packages are those of Ray's environment)

import os
import signal

import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Served:
    """One model."""

    def __init__(self, model, folder):
        """Load the model."""
        import answers

        self.model = answers.load(model, folder)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def predict(self, inputs):
        """Answer a batch."""
        return self.model(inputs)

    async def __call__(self, request):
        """Answer one request."""
        return {"output": await self.predict((await request.json())["input"])}


if __name__ == "__main__":
    folder = os.environ["BENCH_FOLDER"]
    ray.init(
        num_cpus=max(2, os.cpu_count() or 2),
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_SESSIONS"],
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    serve.run(Served.bind(os.environ["BENCH_MODEL"], folder), name="served", route_prefix="/")
    signal.pause()
