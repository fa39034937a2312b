"""The part of the Sample Data module that others call: registering a source, and what its button does."""

from __future__ import annotations

import types

import slicer


class SampleDataSource:
    def __init__(
        self,
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileType=None,
        loadFileProperties=None,
    ) -> None:
        if isinstance(uris, str):
            uris, fileNames, nodeNames = [uris], [fileNames], [nodeNames]
            checksums, loadFileType, loadFiles = [checksums], [loadFileType], [loadFiles]
        else:
            if isinstance(loadFileType, str) or loadFileType is None:
                loadFileType = [loadFileType] * len(uris)
            checksums = [None] * len(uris) if checksums is None else checksums
            loadFiles = [None] * len(uris) if loadFiles is None else loadFiles
        if not len(uris) == len(fileNames) == len(nodeNames) == len(checksums) == len(loadFileType):
            raise ValueError("All fields of sample data source must have the same length")
        self.sampleName, self.uris, self.fileNames, self.nodeNames = sampleName, uris, fileNames, nodeNames
        self.checksums, self.customDownloader = checksums, customDownloader
        self.thumbnailFileName = thumbnailFileName


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(category="Custom", **options):
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        source = SampleDataSource(**options)
        if source.sampleName not in [s.sampleName for s in sources]:
            sources.append(source)


def click(name):
    """Press the button of the sample ``name`` whose data the module makes itself."""
    for sources in slicer.modules.sampleDataSources.values():
        for source in sources:
            if source.sampleName == name:
                return source.customDownloader(source)
    raise KeyError(name)


def python_module():
    module = types.ModuleType("SampleData")
    module.SampleDataLogic, module.SampleDataSource, module.click = SampleDataLogic, SampleDataSource, click
    return module
