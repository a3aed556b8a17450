# The statements of docs/guide.md and README.md work as they stand, from top to bottom, and print what is shown there. Those of
# docs/examples.md are played by 060_auditcase.pl and 061_coachview.pl.

use strict;
use warnings;
use McGuide;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo');
my $url = $sim->url;
my $node = McTest::Node->start('main', extension => 0);

my $guide = McGuide->new('docs/guide.md', node => $node, sim => $sim, key => 'demo-us1');
cmp_ok($guide->play, '>', 30, 'blocks were found');
is($node->query('SELECT status, emails_sent = recipients AND emails_sent > 0 FROM mc_campaign WHERE campaign_id = 1'), 'sent|t', 'the campaign is sent');

# The ten lines, with the guide's CRM
my ($lines) = slurp_file("$McTest::root/README.md") =~ /^```sql\n(.*?)^```/ms;
$lines =~ s/$McGuide::key/'demo-us1', endpoint => '$url'/ or BAIL_OUT('no key in the README');
$node->query('CREATE DATABASE readme');
$node->query($guide->{blocks}[0]{sql}, db => 'readme');
is($node->error($lines, db => 'readme'), '', 'README');
$node->query('CALL mc_run()', db => 'readme');
is($node->query('SELECT status, recipients, emails_sent FROM mc_campaign', db => 'readme'), 'sent|2|2', 'its campaign is sent');

done_testing();
