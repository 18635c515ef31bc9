"""A finished run's model out: `clipjax export runs/dann-... --out=adapted`.

Writes a directory that `transformers.CLIPModel.from_pretrained` and `clipjax.load_adapted` open.
"""

from absl import flags

from clipjax.io import as_path, local_only
from clipjax.runtime.cli import user_errors

WORD, CONFIG = "workdir", ""


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("workdir", None, "A finished run.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; must not exist.", required=True)
    flags.DEFINE_string("method", "", "Default what the run's verdict takes; zero_shot is one too.")
    flags.DEFINE_string("variant", "", "Of a --method: average, wise_0.5, ...; default its own.")
    flags.DEFINE_integer("seed", None, "Default the best on the source's validation split.")
    flags.DEFINE_bool("onnx", False, "Two ONNX files too: image encoder with head, text encoder.")
    flags.DEFINE_string("push", "", "owner/name on the Hugging Face Hub; a new one is private.")
    flags.DEFINE_string("license", "", "For the card; default what the encoder's own says.")


def main() -> None:
    """Export what the flags name."""
    with user_errors():
        from clipjax.study.export import export

        given = flags.FLAGS
        out = local_only(given.out, "the exported model")
        more = {"onnx": given.onnx, "push_to": given.push, "license": given.license}
        more["variant"] = given.variant
        export(as_path(given.workdir), out, given.method, given.seed, **more)
