# What keeping contacts in step costs, counted in the simulator's journal: at most 2 requests for 1,000 changed contacts and 2
# for each tag taken away and 1,000, none for a contact that has not changed (N5, R67, R75, D16).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 1000);
my $push = 'POST /lists/{list_id}';
my $remove = 'POST /lists/{list_id}/segments/{segment_id}';

$crm->ann("UPDATE crm.candidate SET groups = '{all, x, y}'");
$crm->act('c5', 'add', tags => [ 'by hand', 'x' ]);
$crm->act('foreign', 'add', tags => [ 'x', 'by hand' ]);
$crm->sync;
is($crm->status, 'in_sync 1000', 'all are there');
is(($crm->costs)[0], join(', ', '1 GET /lists/{list_id}/merge-fields', "2 $push", "1 $push/merge-fields"), 'R67: tags go with the contacts');
is($crm->tags(4), 'all,x,y', 'as the CRM has them');

$crm->ann("UPDATE crm.candidate SET groups = '{all, y}'");
is($crm->max("SELECT action, count(*), count(*) FILTER (WHERE before -> 'tags' = '[\"all\", \"x\", \"y\"]' AND after -> 'tags' = '[\"all\", \"y\"]')
	FROM mc_preview('people') GROUP BY 1"), 'tag|1000|1000', 'mc_preview: only tags differ');
$crm->run;
is(join(' | ', $crm->costs), "2 $push, 2 $remove | x 2", 'a tag taken from 1,000: two requests, after two that push');
is_deeply($crm->segment('x')->{emails}, ['foreign@crm.test'], 'D16: a foreign member keeps it');
is($crm->tags(5), 'all,by hand,y', 'D16, D20: of an adopted member, too, a tag that was put on by hand stays');
is($crm->rita("SELECT count(*) FROM mc_member WHERE tags @> '{all,y}' AND NOT tags @> '{x}' AND NOT foreign_member"), 1000, 'mc_member shows it');
is($crm->status, 'in_sync 1000', 'N8: all are in sync');
is($crm->max("SELECT count(*) FROM mc_preview('people')"), 0, 'nothing is left to do');

$crm->sync;
$crm->ann("UPDATE crm.candidate SET groups = ARRAY['y', 'all', 'y', '', NULL, E' all\\n']");
$crm->run;
is(($crm->costs)[0], '', 'N5: the same tags in another order, twice, empty, with blanks: no request');

$crm->ann("UPDATE crm.candidate SET last_name = 'M' || id, groups = CASE WHEN id % 100 = 0 THEN '{all}' ELSE groups END");
$crm->run;
is(join(' | ', $crm->costs), "2 $push, 1 $remove | y 1", 'ten of 1,000 changed contacts lose a tag: one request more');
is($crm->rita("SELECT count(*) FROM mc_member WHERE tags = '{all}'"), 10, 'those ten');

$crm->setting(batch_size => 50);
$crm->ann("UPDATE crm.candidate SET groups = '{all, a, b, c}' WHERE id <= 60");
$crm->run;
$crm->costs;
$crm->ann("UPDATE crm.candidate SET groups = CASE id % 3 WHEN 0 THEN ARRAY['all', 'a'] WHEN 1 THEN ARRAY['all', 'c'] ELSE '{all}' END WHERE id <= 60");
$crm->run;
is(join(' | ', $crm->costs), "2 $push, 4 $remove | a 1, b 2, c 1", 'batches of 50, three tags taken from 40, 60 and 40 in all combinations');
is(join(' ', map { $crm->tags($_) } 3, 4, 5), 'a,all all,c all,by hand', 'and each has what it should');
$crm->setting(batch_size => 500);

done_testing();
