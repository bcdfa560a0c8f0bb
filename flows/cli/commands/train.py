"""The command `medsam3 train`."""

from pathlib import Path

import click

from flows.settings.options import CommandWithExamples, cluster_option, store_option
from medsam3_core.settings.extras import Extra, require_extra


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 train finetune.yaml
    medsam3 train hippocampus-lora --store /data/store
    medsam3 train finetune.yaml --plan""",
)
@click.argument("config", metavar="CONFIG.yaml")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be learned from and stop.")
@cluster_option("Cluster for cohorts that are ingested first.")
@store_option
def train(config: str, plan_only: bool, cluster: str, store: Path) -> int:
    """Fine-tune weights on cohorts of the store, as CONFIG.yaml says, and register the result.

    Killed or interrupted, the same command goes on where it stopped and ends with the same weights. CONFIG may be the
    name of a configuration that comes with the product: hippocampus-lora (an example of a fine-tune), tiny-base, or a
    stage of tiny-medical, each of which needs the one before (`make weights` runs them all). Several GPUs:
    accelerate launch -m flows train CONFIG.yaml.
    """
    require_extra(Extra.TRAIN, "medsam3 train", "accelerate", "peft")

    from flows.cli.work.train import run_train, show_training_plan

    return show_training_plan(store, config) if plan_only else run_train(store, config, cluster)
