"""One stage at a time: scores, neurons, answers."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

import culnig_tl as ct
from culnig_tl.attribution import METHODS, launched
from culnig_tl.cli.options import (
    OUT,
    SITES,
    Backend,
    Chat,
    Context,
    Device,
    Dtype,
    Method,
    ModelName,
    Quiet,
    Rows,
    Sites,
    SpecificRecipe,
    TemplateName,
    TokenBudget,
    Trust,
    load,
    neurons_of,
    plain_errors,
    reserved,
    rows_of,
)
from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.files import write_csv


def score(
    model: ModelName,
    rows: Rows,
    out: Annotated[Path, typer.Option(help="Where to write the scores (.safetensors).")],
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Cut negative scores to 0: for control questions.")
    ] = False,
    sites: Sites = "default",
    method: Method = "gradient_x_activation",
    steps: Annotated[int, typer.Option(help="Steps of integrated gradients.", min=1)] = 20,
    path: Annotated[
        Literal["joint", "layer"],
        typer.Option(help="Integrated gradients: all layers together, or one at a time."),
    ] = "joint",
    padding: Annotated[
        Literal["ignore", "zero"], typer.Option(help="zero: count it, as the published code does.")
    ] = "ignore",
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    n_ctx: Context = None,
    trust: Trust = False,
    chat: Chat = True,
    template: TemplateName = None,
    token_budget: TokenBudget = 8192,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file that is there.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Score every neuron of a model on your rows; resumable, in one process or in many.

    Example:  culnig-tl score atlas atlas:identify --out cultural.safetensors

    Eight GPUs:  torchrun --nproc_per_node 8 -m culnig_tl score my-model rows.csv --out
    cultural.safetensors
    """
    checkpoint = out.with_name(out.name + ".checkpoint")
    with ExitStack() as stack:
        stack.enter_context(plain_errors(resumable=checkpoint, shared=True))
        check_choice("method", method, METHODS)
        state = launched()
        is_main = state is None or state.is_main_process
        if is_main:
            stack.enter_context(reserved(out, overwrite=force))
        if state is not None and device is None:
            device = str(state.device)
        hooked = load(
            model,
            backend=backend,
            dtype=dtype,
            device=device,
            n_ctx=n_ctx,
            trust=trust,
            quiet=quiet,
        )
        ready = ct.prepare(
            hooked, rows_of(rows), chat=chat, template=template, token_budget=token_budget
        )
        scores = ct.attribute(
            hooked,
            ready,
            sites=SITES[sites],
            method=method,
            steps=steps,
            path=path,
            padding=padding,
            clamp=clamp,
            checkpoint=checkpoint,
            out=out,
            progress=not quiet,
        )
        if is_main:
            OUT.print(
                f"{out}: {len(scores.cultures)} cultures, {scores.n_questions} questions, "
                f"{', '.join(scores.sites)}",
                soft_wrap=True,
            )


def select(
    cultural: Annotated[Path, typer.Option(help="Scores of the cultural questions.")],
    out: Annotated[Path, typer.Option(help="Where to write the neurons (.json).")],
    control: Annotated[Path | None, typer.Option(help="Scores of the control.")] = None,
    recognition: Annotated[Path | None, typer.Option(help="Scores of the country names.")] = None,
    culture: Annotated[
        str | None, typer.Option(help="Neurons of this culture; without it, culture-general ones.")
    ] = None,
    mlp_top: Annotated[float, typer.Option(help="General: share of MLP neurons.")] = 0.01,
    attention_top: Annotated[float, typer.Option(help="General: share of q, k, v.")] = 0.002,
    top: Annotated[float, typer.Option(help="Specific: share of all neurons.")] = 0.003,
    min_z: Annotated[float, typer.Option(help="Specific: least z-score.")] = 0.5,
    specific_recipe: SpecificRecipe = "published",
    recognition_top: Annotated[float, typer.Option(help="Share to drop by country names.")] = 0.01,
) -> None:
    """Select culture-general neurons, or those of one culture, from scores.

    Example:  culnig-tl select --cultural cultural.safetensors --control control.safetensors
    --out general.json
    """
    with plain_errors():
        if culture is None and specific_recipe != "published":
            raise InvalidInputError(
                f"--specific-recipe {specific_recipe} finds neurons of one culture, and there is "
                "no --culture; name one, or leave it out."
            )
        scores = (
            ct.NeuronScores.load(cultural),
            ct.NeuronScores.load(control) if control is not None else None,
            ct.NeuronScores.load(recognition) if recognition is not None else None,
        )
        if culture is None:
            neurons = ct.culture_general(
                *scores,
                mlp_top=mlp_top,
                attention_top=attention_top,
                recognition_top=recognition_top,
            )
        else:
            neurons = ct.culture_specific(
                *scores,
                culture=culture,
                recipe=specific_recipe,
                top=top,
                recognition_top=recognition_top,
                min_z=min_z,
            )
        neurons.save(out)
        OUT.print(f"{out}: {len(neurons)} neurons", soft_wrap=True)


def evaluate(
    model: ModelName,
    rows: Rows,
    neurons: Annotated[
        str | None,
        typer.Option(
            help="Neurons to scale: a file (.json), or names (L0.mlp.hook_post.152), separated "
            "by commas; without it, the model as it is."
        ),
    ] = None,
    factor: Annotated[float, typer.Option(help="0 suppresses, 2 enhances.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Where to write the answers (.csv).")] = None,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    n_ctx: Context = None,
    trust: Trust = False,
    chat: Chat = True,
    template: TemplateName = None,
    token_budget: TokenBudget = 16384,
    quiet: Quiet = False,
) -> None:
    """Accuracy and mean P(answer) on your rows, with neurons scaled or not.

    Example:  culnig-tl evaluate atlas atlas:test --neurons general.json --factor 0
    """
    with plain_errors(), reserved(out):
        hooked = load(
            model,
            backend=backend,
            dtype=dtype,
            device=device,
            n_ctx=n_ctx,
            trust=trust,
            quiet=quiet,
        )
        ready = ct.prepare(
            hooked, rows_of(rows), chat=chat, template=template, token_budget=token_budget
        )
        answers = ct.evaluate(
            hooked,
            ready,
            neurons=neurons_of(neurons) if neurons is not None else None,
            factor=factor,
            progress=not quiet,
        )
        if out is not None:
            write_csv(out, answers)
        OUT.print(
            f"accuracy {100 * answers['correct'].mean():.1f} %, mean P(answer) "
            f"{answers['probability'].mean():.3f}, {len(answers)} prompts"
        )
