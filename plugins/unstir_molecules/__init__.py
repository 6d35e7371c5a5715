"""The plugin of molecules and graphs: sets of them, new ones like them, and what judges these. Names only; all else is imported on use."""

from __future__ import annotations

from unstir import hookimpl

UNSTIR_API = 1


@hookimpl
def unstir_data() -> dict[str, str]:
    """Bundled and packaged molecules, files of one's own, and generated graphs."""
    molecules = {"qm9-sample": "QM9Sample", "qm9": "QM9", "moses": "Moses", "nci": "NCI", "wehi": "WEHI", "file": "FileMolecules"}
    graphs = {name: name.title() for name in ("community", "ego", "grid", "planar", "tree", "lobster")} | {"sbm": "SBM"}
    made = {f"molecules/{name}": f"unstir_molecules.datasets:{cls}" for name, cls in molecules.items()}
    made |= {f"graphs/{name}": f"unstir_molecules.generators:{cls}" for name, cls in graphs.items()}
    made |= {f"molecules/{name}": f"unstir_molecules.trajectories.datasets:{name.title()}" for name in ("springs", "charges")}
    return made | {"graphs/file": "unstir_molecules.graph_files:GraphFile"}


@hookimpl
def unstir_tasks() -> dict[str, str]:
    """New molecules, new graphs, and forecasts of moving bodies."""
    return {
        "molecules/generate": "unstir_molecules.tasks:Generate",
        "molecules/trajectories": "unstir_molecules.trajectories.tasks:Trajectories",
        "graphs/generate": "unstir_molecules.tasks:GenerateGraphs",
    }


@hookimpl
def unstir_methods() -> dict[str, str]:
    """Opponents, models and trainings; a model of graphs serves both names."""
    molecules = {"n-gram": "ngram:NGram", "training-set": "ngram:TrainMolecules"}
    molecules |= {"last-frame": "trajectories.baselines:LastFrame", "constant-velocity": "trajectories.baselines:ConstantVelocity"}
    molecules |= {"linear": "trajectories.baselines:Linear", "geotdm": "trajectories.generation:GeoTDM"}
    molecules |= {"property-training": "property_training:PropertyTraining"}
    molecules |= {"geotdm-training": "trajectories.training:GeoTDMTraining"}
    graphs = {"erdos-renyi": "ErdosRenyi", "configuration-model": "ConfigurationModel", "training-set": "TrainGraphs"}
    both = {"discrete": "discrete:Discrete", "discrete-training": "discrete:DiscreteTraining"}
    both |= {"gdss": "gdss.generation:GDSS", "gdss-training": "gdss.training:GDSSTraining"}
    both |= {"pard": "pard.generation:PARD", "pard-training": "pard.training:PARDTraining"}
    made = {f"molecules/{name}": f"unstir_molecules.{place}" for name, place in (molecules | both).items()}
    hyperbolic = {"hypdiff": "hyperbolic.generation:HypDiff", "hypdiff-training": "hyperbolic.training:HypDiffTraining"}
    made |= {f"graphs/{name}": f"unstir_molecules.{place}" for name, place in (both | hyperbolic).items()}
    return made | {f"graphs/{name}": f"unstir_molecules.opponents:{cls}" for name, cls in graphs.items()}


@hookimpl
def unstir_metrics() -> dict[str, str]:
    """Validity, novelty, distances of sets of molecules and of graphs."""
    shares = {"validity": "Validity", "novelty": "Novelty", "numerators": "Numerators", "reward": "Reward"}
    distances = {"fcd": "FCD", "nspdk": "NSPDK", "similarity": "Similarity", "fragments": "Fragments", "properties": "Properties"}
    graphs = {"mmd-gdss": "GDSSDistance", "mmd-spectre": "SpectreDistance", "ratio": "Ratio", "novelty": "Novelty", "sizes": "Sizes"}
    graphs |= {"vun": "VUN", "connected": "Connected"}
    bodies = {"displacement": "Displacement", "energy": "Energy"}
    made = {f"molecules/{name}": f"unstir_molecules.molecule_metrics:{cls}" for name, cls in shares.items()}
    made |= {f"molecules/{name}": f"unstir_molecules.trajectories.metrics:{cls}" for name, cls in bodies.items()}
    made |= {f"molecules/{name}": f"unstir_molecules.molecule_distances:{cls}" for name, cls in distances.items()}
    return made | {f"graphs/{name}": f"unstir_molecules.graph_metrics:{cls}" for name, cls in graphs.items()}


@hookimpl
def unstir_figures() -> dict[str, str]:
    """Structures, laws of properties and faults of molecules; drawings and statistics of graphs."""
    molecules = {"grid": "Structures", "properties": "PropertyLaws", "failures": "Failures"}
    made = {f"molecules/{name}": f"unstir_molecules.figures:{cls}" for name, cls in molecules.items()}
    made |= {"molecules/steps": "unstir_molecules.figures_steps:Steps"}
    graphs = {"grid": "DrawnGraphs", "statistics": "Statistics"}
    return made | {f"graphs/{name}": f"unstir_molecules.figures_graphs:{cls}" for name, cls in graphs.items()}


@hookimpl
def unstir_networks() -> dict[str, str]:
    """The networks of the plugin."""
    return {
        "molecules/graph-transformer": "unstir_molecules.transformer:GraphTransformer",
        "molecules/gdss": "unstir_molecules.gdss.networks:GDSSNetwork",
        "molecules/property": "unstir_molecules.property_guidance:PropertyNetwork",
        "molecules/pard": "unstir_molecules.pard.network:PARDNetwork",
        "molecules/geotdm": "unstir_molecules.trajectories.network:GeoTDMNetwork",
        "molecules/hypdiff": "unstir_molecules.hyperbolic.network:HypDiffNetwork",
    }


@hookimpl
def unstir_processes() -> dict[str, str]:
    """The published forward of HypDiff."""
    return {"molecules/radial": "unstir_molecules.hyperbolic.process:Radial"}


@hookimpl
def unstir_recipes() -> dict[str, str]:
    """Molecules, graphs, and the trainings."""
    molecules = {"generate": "generate", "qm9": "qm9", "qm9-discrete-training": "qm9-discrete-training"}
    molecules |= {name: name for name in ("qm9-steps", "qm9-steering", "qm9-gdss-training", "qm9-pard-training", "springs", "charges")}
    molecules |= {name: name for name in ("springs-training", "charges-training")}
    made = {f"molecules/{name}": f"unstir_molecules:recipes/{file}.yaml" for name, file in molecules.items()}
    names = ("community", "ego-small", "enzymes", "grid", "hyperbolic")
    trainings = ("community-small-gdss-training", "ego-small-gdss-training", "hyperbolic-training")
    graphs = {"generate": "generate-graphs"} | {name: name for name in (*names, *trainings)}
    return made | {f"graphs/{name}": f"unstir_molecules:recipes/{file}.yaml" for name, file in graphs.items()}


@hookimpl
def unstir_checkpoints() -> dict[str, str]:
    """Small models of QM9 in three ways, GDSS of small communities, and GeoTDM of bodies on springs."""
    found = ["graphs/community-small-gdss", *(f"molecules/{name}" for name in ("qm9-discrete", "qm9-gdss", "qm9-pard", "springs-geotdm"))]
    return {name: f"unstir_data:checkpoints/{name}" for name in found}


@hookimpl
def unstir_apply() -> dict[str, str]:
    """New molecules and new graphs of a trained model."""
    return {"molecules/generate": "unstir_molecules.apply:MakeMolecules", "graphs/generate": "unstir_molecules.apply:MakeGraphs"}
