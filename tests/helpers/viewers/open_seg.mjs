// Open DICOM Segmentations as OHIF does: by cornerstone's metadata providers and its adapter for segmentations.
//
//     node open_seg.mjs JOBS.json
//
// JOBS.json is a list of {"seg": path, "sources": [paths of the images it refers to], "out": path to write to}. Into `out`
// go the labels of all frames of all sources, a byte a pixel, layer by layer where segments overlap. One line of JSON is
// printed for each job: what the segmentation holds, or the error by which it was refused.

import { readFileSync, writeFileSync } from 'node:fs';
import { cache } from '@cornerstonejs/core';
import { metaData, registerDefaultProviders } from '@cornerstonejs/metadata';
import { adaptersSEG } from '@cornerstonejs/adapters';
import dcmjs from 'dcmjs';

const { Segmentation } = adaptersSEG.Cornerstone3D;
const provider = {
  get(type, imageId) {
    const found = metaData.getMetaData(type, imageId);
    // OHIF's own provider tells the instance here, by which the adapter finds the source
    const sopInstanceUID = type === 'generalImageModule' && metaData.getMetaData('instance', imageId)?.SOPInstanceUID;
    return sopInstanceUID ? { ...found, sopInstanceUID } : found;
  },
  addCustomMetadata: () => undefined,
};

function read(path) {
  const bytes = readFileSync(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

async function imageIdsOf(path, number) {
  const imageId = `wadors:http://localhost/studies/1/series/1/instances/${number}`;
  await metaData.addTyped('naturalized', imageId, { part10Buffer: read(path) });
  const frames = Number(metaData.getMetaData('naturalized', imageId).NumberOfFrames) || 1;
  return Array.from({ length: frames }, (_, index) => `${imageId}/frames/${index + 1}`);
}

async function open({ seg, sources, out }, first) {
  const imageIds = (await Promise.all(sources.map((path, k) => imageIdsOf(path, first + k)))).flat();
  const buffer = read(seg);
  const { dict } = dcmjs.data.DicomMessage.readFile(buffer.slice(0));
  const dataset = dcmjs.data.DicomMetaDictionary.naturalizeDataset(dict);
  const opened = await Segmentation.createFromDICOMSegBuffer(imageIds, buffer, { metadataProvider: provider });
  const layers = opened.labelMapImages.map(images => images.map(image => Buffer.from(image.voxelManager.getScalarData())));
  writeFileSync(out, Buffer.concat(layers.flat()));
  return {
    frames: Number(dataset.NumberOfFrames),
    labels: opened.segMetadata.data.filter(Boolean).map(segment => segment.SegmentLabel),
    shape: [layers.length, imageIds.length, dataset.Rows, dataset.Columns],
  };
}

registerDefaultProviders();
let first = 0;
for (const job of JSON.parse(readFileSync(process.argv[2]))) {
  let told;
  try {
    told = await open(job, first);
  } catch (error) {
    told = { error: String(error.message ?? error) };
  }
  first += job.sources.length;
  cache.purgeCache();
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
process.exit(0);
