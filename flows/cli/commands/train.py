"""Command train."""

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
@click.option("--plan", "plan_only", is_flag=True, help="Print the training data, then stop.")
@cluster_option("Cluster to ingest missing cohorts.")
@store_option
def train(config: str, plan_only: bool, cluster: str, store: Path) -> int:
    """Fine-tune weights on cohorts of the store, as described in CONFIG.yaml, and register the result.

    After an interruption the same command continues where it stopped and gives the same weights. CONFIG may be the name
    of a shipped configuration: hippocampus-lora (an example of fine-tuning), tiny-base, or a stage of tiny-medical,
    each of which needs the previous one (`make weights` runs all). For several GPUs:
    accelerate launch -m flows train CONFIG.yaml.
    """
    require_extra(Extra.TRAIN, "medsam3 train", "accelerate", "peft")
    from flows.cli.work.train import run_train, show_training_plan

    return show_training_plan(store, config) if plan_only else run_train(store, config, cluster)
