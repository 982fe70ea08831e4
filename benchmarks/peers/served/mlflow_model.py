"""Runs in MLflow's environment: saves the model as a ``pyfunc``, then becomes ``mlflow models serve``."""
# mypy: ignore-errors
# (its packages are those of MLflow's environment)

import os
import sys
from pathlib import Path

import mlflow


class Served(mlflow.pyfunc.PythonModel):
    """One model."""

    def load_context(self, context):
        """Load the model that the environment names."""
        import answers

        self.model = answers.load(os.environ["BENCH_MODEL"], os.environ["BENCH_FOLDER"])

    def predict(self, context, model_input, params=None):
        """Answer the rows of one request."""
        return self.model(model_input)


if __name__ == "__main__":
    folder = Path(os.environ["BENCH_FOLDER"])
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=Served(),
        code_paths=[str(folder / "answers.py")],
        pip_requirements=[],  # it is served from this environment
    )
    program = str(Path(sys.executable).with_name("mlflow"))
    command = [program, "models", "serve", "--model-uri", str(folder / "model"), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", os.environ["BENCH_PORT"]]
    os.execv(program, [*command, "--workers", str(os.cpu_count() or 1)])
