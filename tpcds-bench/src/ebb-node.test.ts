import { expect, test } from 'vitest';
import { parseProperties } from './ebb-node.ts';

test('Spark settings keep their values whole, equals signs included', () => {
  const text =
    '# comment\n\nspark.shuffle.manager=a.B\nspark.driver.extraJavaOptions=-Da=b -Dc=d\n';
  expect(parseProperties(text)).toEqual({
    'spark.shuffle.manager': 'a.B',
    'spark.driver.extraJavaOptions': '-Da=b -Dc=d',
  });
  expect(() => parseProperties('an error message')).toThrow('not a key=value line');
});
