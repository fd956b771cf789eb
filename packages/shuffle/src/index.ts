export type * from './shuffle-service.ts';
