export interface Token { type: string; raw: string; }
export declare class Marked {
  constructor(...extensions: object[]);
  lexer(source: string): Token[] & { links: object };
  parser(tokens: Token[]): string;
}
