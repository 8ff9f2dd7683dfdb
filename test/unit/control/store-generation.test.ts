import test from 'ava';

import {
  generationOf,
  heldNames,
  isMapName,
  mapName,
} from '../../../src/control/store-generation.js';

test('the first store has the plain names, so that states from before stay good', (t) => {
  t.is(generationOf({}), 1);
  t.is(mapName(1), 'map');
  t.deepEqual(heldNames(1), {store: 'store', map: 'map'});
});

test('each later one has names of its own, and all of them are known as maps', (t) => {
  t.is(generationOf({generation: 3}), 3);
  t.is(mapName(3), 'map.3');
  t.deepEqual(heldNames(3), {store: 'store.3', map: 'map.3'});
  t.deepEqual(['map', 'map.12', 'map.x', 'volume.json', 'maps'].filter(isMapName), [
    'map',
    'map.12',
  ]);
});
