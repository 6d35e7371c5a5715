"""The time series plugin: forecasts, imputation, refinement, synthesis, anomaly scores. Names only; everything else is imported on use."""

from __future__ import annotations

from unstir import hookimpl

UNSTIR_API = 1


@hookimpl
def unstir_data() -> dict[str, str]:
    """Bundled and packaged series, and a reader of any file."""
    names = {"gefcom": "GEFCom", "gefcom-wind": "GEFComWind", "exchange": "Exchange", "traffic": "Traffic", "etth1": "ETTh1"}
    names |= {"vic-elec": "VicElec", "prices": "Prices", "pedestrian": "Pedestrian", "retail": "Retail", "file": "FilePanel"}
    names |= {"ar1": "AR1"}
    return {f"timeseries/{name}": f"unstir_timeseries.datasets:{cls}" for name, cls in names.items()} | {
        "timeseries/shuttle": "unstir_timeseries.anomaly_data:Shuttle",
        "timeseries/ucr-135": "unstir_timeseries.anomaly_data:InternalBleeding",
        "timeseries/ecg-simulated": "unstir_timeseries.ecg.records:SimulatedECG",
    }


@hookimpl
def unstir_tasks() -> dict[str, str]:
    """Forecasting from rolling origins, imputation, synthesis, anomaly scores."""
    return {
        "timeseries/forecast": "unstir_timeseries.tasks:Forecast",
        "timeseries/impute": "unstir_timeseries.tasks:Impute",
        "timeseries/synthesise": "unstir_timeseries.synthesis:Synthesise",
        "timeseries/anomaly": "unstir_timeseries.anomaly_task:Anomaly",
        "timeseries/ecg": "unstir_timeseries.ecg.task:ConditionedECG",
    }


@hookimpl
def unstir_forward_models() -> dict[str, str]:
    """What hides values: the future, or a part of the past."""
    return {"timeseries/missing": "unstir_timeseries.missing:Missing"}


@hookimpl
def unstir_methods() -> dict[str, str]:
    """Baselines, TSDiff in its uses, and trainings."""
    baselines = {"seasonal-naive": "SeasonalNaive", "seasonal-residual": "SeasonalResidual", "random-walk": "RandomWalk", "ets": "ETS"}
    baselines |= {
        "ridge": "Ridge",
        "ridge-residual": "RidgeResidual",
        "statsforecast": "StatsForecast",
        "linear-interpolation": "Interpolation",
    }
    learned = {"deepar": "learned:DeepAR", "quantile-gbm": "learned:QuantileGBM", "jump": "counts:Jump", "croston": "counts:Croston"}
    learned |= {"negative-binomial": "counts:NegativeBinomial", "empirical": "counts:Empirical"}
    diffusion = {"tsdiff": "predict:TSDiff", "refine": "refine:Refine", "tsdiff-training": "training:TSDiffTraining"}
    diffusion |= {"tsdiff-samples": "synthesis:TSDiffSamples", "real-windows": "synthesis:RealWindows"}
    anomaly = {name: f"anomaly:{cls}" for name, cls in {"dte-np": "DTENP", "dte": "DTE", "knn": "NearestNeighbours"}.items()}
    anomaly |= {"isolation-forest": "anomaly:Forest", "ddpm-reconstruction": "anomaly:Reconstruction"}
    ecg = {"ecg-diffusion": "ecg.methods:DiffusionECG", "ecg-training": "ecg.methods:ECGTraining", "ecg-resampled": "ecg.methods:Resampled"}
    places = {name: f"baselines:{cls}" for name, cls in baselines.items()} | learned | diffusion | anomaly | ecg
    return {f"timeseries/{name}": f"unstir_timeseries.{place}" for name, place in places.items()}


@hookimpl
def unstir_metrics() -> dict[str, str]:
    """Scores of forecasts, of imputations, of synthetic series and of anomaly scores."""
    names = {"crps": "CRPS", "sample-crps": "SampleCRPS", "nd": "ND", "nrmse": "NRMSE", "mase": "MASE", "msis": "MSIS", "smape": "SMAPE"}
    names |= {"coverage": "Coverage", "width": "Width", "pit": "PIT", "energy": "EnergyScore", "variogram": "VariogramScore"}
    names |= {"zeros": "ZeroShare"}
    quality = {"lps": "LPS", "discriminative": "Discriminative", "acf-distance": "ACFDistance", "spectrum-distance": "SpectrumDistance"}
    quality |= {"memorisation": "Memorisation"}
    made = {f"timeseries/{name}": f"unstir_timeseries.metrics:{cls}" for name, cls in names.items()}
    made |= {f"timeseries/{name}": f"unstir_timeseries.quality:{cls}" for name, cls in quality.items()}
    made |= {
        "timeseries/auroc": "unstir_timeseries.anomaly_task:AUROC",
        "timeseries/average-precision": "unstir_timeseries.anomaly_task:AP",
    }
    made |= {
        "timeseries/heart-rate": "unstir_timeseries.ecg.metrics:HeartRate",
        "timeseries/einthoven": "unstir_timeseries.ecg.metrics:Einthoven",
    }
    return made


@hookimpl
def unstir_networks() -> dict[str, str]:
    """The S4D backbone and the networks of the smaller corners."""
    return {
        "timeseries/s4d": "unstir_timeseries.s4d:Backbone",
        "timeseries/counts": "unstir_timeseries.counts:CountNetwork",
        "timeseries/ecg-unet": "unstir_timeseries.ecg.network:BeatNetwork",
    }


@hookimpl
def unstir_figures() -> dict[str, str]:
    """Pictures of a run."""
    names = {"fans": "Fans", "calibration": "Calibration", "per-horizon": "PerHorizon", "windows": "Windows", "steps": "Steps"}
    names |= {"scores": "Scores", "synthetic": "Synthetic", "leads": "Leads"}
    return {f"timeseries/{name}": f"unstir_timeseries.figures:{cls}" for name, cls in names.items()}


@hookimpl
def unstir_recipes() -> dict[str, str]:
    """Forecasting and its settings, imputation, refinement, synthesis, anomaly scores, counts, ECG, and the trainings."""
    names = (
        "forecast",
        "exchange",
        "traffic",
        "missing",
        "refine",
        "steps",
        "synthesise",
        "impute",
        "counts",
        "anomaly",
        "ecg",
        "gefcom-training",
    )
    return {f"timeseries/{name}": f"unstir_timeseries:recipes/{name}.yaml" for name in names}


@hookimpl
def unstir_checkpoints() -> dict[str, str]:
    """TSDiff of hourly load, and the demonstration on simulated ECG."""
    return {f"timeseries/{name}": f"unstir_data:checkpoints/timeseries/{name}" for name in ("gefcom", "ecg")}


@hookimpl
def unstir_apply() -> dict[str, str]:
    """Forecast, impute and score a user's own series."""
    return {"timeseries/forecast": "unstir_timeseries.apply:ForecastFiles", "timeseries/anomaly": "unstir_timeseries.apply:ScoreFiles"}
